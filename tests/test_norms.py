import pytest
import torch
import torch.nn.functional as F

from elmanctl.norms import EPS, AddNorm, add_norm, fused, implementation


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
    assert implementation("cuda") == ("mamba_ssm" if fused()[0] else "torch.compile")


def test_module_computes_in_the_autocast_dtype():
    x, r, _ = inputs()
    with torch.autocast("cpu", torch.bfloat16):
        u, stream = AddNorm(48)(x, r)
    assert (u.dtype, stream.dtype) == (torch.bfloat16, torch.float32)


@pytest.mark.gpu
@pytest.mark.parametrize("route", ["mamba_ssm", "torch.compile"])
def test_routes_on_cuda_agree_with_the_definition(route):
    from elmanctl.norms import compiled

    if route == "mamba_ssm" and fused()[0] is None:
        pytest.skip(f"mamba_ssm's fused norm cannot be imported: {fused()[1]}")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device is visible to torch")
    torch.compiler.reset()  # the number of shapes that one process may compile for is limited
    x, r, weight = inputs(torch.bfloat16, "cuda")
    leaves = [t.clone().requires_grad_() for t in (x, r, weight)]
    if route == "mamba_ssm":
        u, stream = fused()[0](
            leaves[0], leaves[2], None, residual=leaves[1], eps=EPS, prenorm=True, residual_in_fp32=True
        )
    else:
        u, stream = compiled()(*leaves, torch.bfloat16)
    expected, sum_ = exact(x, r, weight)
    torch.testing.assert_close(u.double(), expected, rtol=2**-8, atol=2**-12)
    torch.testing.assert_close(stream.double(), sum_, rtol=1e-6, atol=1e-6)
    u.float().sin().sum().backward()
    plain = [t.clone().requires_grad_() for t in (x, r, weight)]
    add_norm(*plain, torch.bfloat16)[0].float().sin().sum().backward()
    for ours, theirs in zip(leaves, plain, strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=2**-6, atol=2**-6)
