import pytest
import torch
import torch.nn.functional as F

from elmanctl.norms import (
    EPS,
    NEIGHBOURS,
    WARPS,
    AddNorm,
    Rows,
    add_norm,
    backward_division,
    division,
    fused,
    implementation,
    programs_of,
)


def inputs(dtype=torch.float32, device="cpu", scale=1.0):
    generator = torch.Generator().manual_seed(0)
    x, r = (scale * torch.randn(2, 3, 48, generator=generator).to(device) for _ in range(2))
    return x.to(dtype), r, 1 + 0.1 * torch.randn(48, generator=generator).to(device)


def exact(x, r, weight):
    """The definition in fp64."""
    s = x.double() if r is None else r.double() + x.double()
    return weight.double() * s / (s.square().mean(-1, keepdim=True) + 1e-5).sqrt(), s


@pytest.mark.parametrize("first", [True, False])
def test_matches_the_definition(first):
    x, r, weight = inputs()
    u, stream = add_norm(x, None if first else r, weight, torch.float32)
    expected, sum_ = exact(x, None if first else r, weight)
    torch.testing.assert_close(u.double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(stream.double(), sum_, rtol=1e-6, atol=1e-6)


def test_eps_is_that_of_the_method_for_small_bf16_inputs():
    """Inputs of the first layer have a mean square of 4e-4, where an eps of the bf16 epsilon would shrink them five-fold."""
    x, _, weight = inputs(torch.bfloat16, scale=0.02)
    u, _ = add_norm(x, None, weight, torch.bfloat16)
    expected, _ = exact(x, None, weight)
    assert EPS == 1e-5
    torch.testing.assert_close(u.double(), expected, rtol=2**-8, atol=0)


def test_the_stream_stays_fp32_and_keeps_small_contributions():
    x, r, weight = inputs(torch.bfloat16)
    x = x * 2**-12
    _, stream = add_norm(x, r, weight, torch.bfloat16)
    assert stream.dtype == torch.float32
    torch.testing.assert_close(stream.double(), r.double() + x.double(), rtol=0, atol=1e-6)


def test_gradients_are_those_of_torch_s_norm():
    x, r, weight = (t.double().requires_grad_() for t in inputs())
    u, stream = add_norm(x, r, weight, torch.float64)
    ours = torch.autograd.grad(u.sin().sum() + stream.cos().sum(), (x, r, weight))
    s = x + r
    theirs = torch.autograd.grad(F.rms_norm(s, (48,), weight, EPS).sin().sum() + s.cos().sum(), (x, r, weight))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_the_record_names_the_route_of_each_device():
    assert implementation("cpu") == "torch"
    assert implementation("cuda") == ("triton" if fused() else "torch")


def test_module_computes_in_the_autocast_dtype():
    x, r, _ = inputs()
    with torch.autocast("cpu", torch.bfloat16):
        u, stream = AddNorm(48)(x, r)
    assert (u.dtype, stream.dtype) == (torch.bfloat16, torch.float32)


@pytest.mark.parametrize("D", [1, 16, 33, 768, 1536, 2176, 2432, 4096, 4736, 10_000, 47_744])
def test_a_row_is_held_in_chunks_with_few_lanes_to_spare(D):
    found = division(D)
    assert D <= found["CHUNKS"] * found["WIDTH"] <= max(1.5 * D, 128)
    assert found["num_warps"] in (1, 2, 4, 8, 16) and found["WIDTH"] == 32 * found["num_warps"] * NEIGHBOURS
    assert 1 <= programs_of(D, 10**6, 132) * found["num_warps"] <= 132 * WARPS and programs_of(D, 3, 132) == 3
    assert backward_division(D)["AHEAD"] == (D <= 6144), "two rows in the registers of one program"


def test_lanes_of_the_widths_that_are_trained():
    assert {D: tuple(division(D).values()) for D in (768, 1536, 1920, 2432, 3200, 4736)} == {
        768: (3, 256, 2), 1536: (3, 512, 4), 1920: (2, 1024, 8), 2432: (3, 1024, 8), 3200: (2, 2048, 16), 4736: (3, 2048, 16)
    }  # fmt: skip


def test_rows_are_the_embedding_and_take_its_gradient():
    table = torch.randn(256, 48, generator=torch.Generator().manual_seed(1)).requires_grad_()
    index, norm = torch.tensor([[0, 255, 7]], dtype=torch.uint8), AddNorm(48)
    u, stream = norm(Rows(table, index))
    expected, sum_ = norm(F.embedding(index.long(), table))
    assert torch.equal(u, expected) and torch.equal(stream, sum_)
    (d,) = torch.autograd.grad(stream.sum(), table)
    assert d.sum() == 3 * 48 and d[7].eq(1).all()
