"""The gated recurrences: divisions of several products, low rank beyond the number of blocks, and the parameters that their layers share."""

import pytest
import torch

from elmanctl import ops
from elmanctl.families import gated
from elmanctl.families.gated_layer import FactoredWeight, orthogonal, stacked
from elmanctl.plugins.registry import registry
from elmanctl.tensors import cdiv
from elmanctl.tiles import CHUNK, DEVICES, ROWS, TILE, DoesNotFit, Product, tiling

H200 = DEVICES["sm_90a"]
STAGES = tiling(Product(sums=2), Product("N_"), typical={"B": 32, "D": 768}, registers=gated.REGISTERS)


@pytest.mark.parametrize("device", [*DEVICES.values(), None], ids=[*DEVICES, "host"])
@pytest.mark.parametrize("B", [3, 32, 100])
@pytest.mark.parametrize(("D", "R"), [(48, 32), (80, 96), (768, 64), (1280, 640), (2048, 64)])
def test_a_division_of_low_rank_covers_both_factors(B, D, R, device):
    c = gated.low_rank(D, R).choose({"B": B, "D": D, "R": R}, "bfloat16", device)
    blocks = cdiv(D, TILE * c["TILES"])
    assert blocks * c["V_TILES"] * TILE >= R and blocks * c["TILES"] * TILE >= D
    assert c["WARPS"] * c["V_CHUNKS"] * CHUNK >= D and c["WARPS"] * c["CHUNKS"] * CHUNK >= R
    assert c["WARPS"] >= 2 * max(c["TILES"], c["V_TILES"]) and 0 <= c["SHARED"] <= c["TILES"]
    if device:
        assert cdiv(cdiv(B, ROWS), c["TURNS"]) * blocks <= device.multiprocessors, "one block on each multiprocessor"


def test_rows_of_several_sums_take_the_room_of_as_many_matrices():
    one, three = (gated.square(k, 1024).choose({"B": 32, "D": 1024}, "bfloat16", H200) for k in (1, 3))
    assert one["SHARED"] == 0 and 0 < three["SHARED"] <= 3 * three["TILES"] and three["TURNS"] == 1
    with pytest.raises(
        DoesNotFit, match=r"D=4096 in bfloat16: 128 MiB of recurrent matrix .* The widest that fits is D=1536"
    ):
        gated.square(4, 768).choose({"B": 32, "D": 4096}, "bfloat16", H200)
    with pytest.raises(DoesNotFit, match="96 MiB"):
        STAGES.choose({"B": 32, "D": 4096}, "bfloat16", H200)


@pytest.mark.parametrize(
    ("B", "D", "R"), [(3, 48, 80), (17, 80, 16)], ids=["two tiles a block", "idle blocks, two turns"]
)
def test_a_rank_beyond_the_blocks_or_far_below(B, D, R):
    variant = registry().variants()["E4"]
    kernel, reference = variant.kernel(), variant.module("reference")
    generator = torch.Generator().manual_seed(0)
    shapes = {s.name: s.shape({"B": B, "T": 3, "D": D, "R": R}) for s in kernel.input_specs}
    drawn = reference.draw("typical", shapes, {}, lambda *s: torch.randn(*s, generator=generator, dtype=torch.float64))
    found = {}
    for backend in ("reference", "host"):
        inputs = {name: t.clone().requires_grad_() for name, t in drawn.items()}
        with ops.using(backend):
            outputs = ops.recurrence(kernel, inputs, {"CUBLAS": 0})
        total = sum((o * o).sum() for o in outputs.values())
        found[backend] = [*outputs.values(), *torch.autograd.grad(total, list(inputs.values()))]
    for truth, ours in zip(found["reference"], found["host"], strict=True):
        assert (truth - ours).abs().max() < 1e-13 * truth.abs().max()


def test_a_padded_rank_computes_the_same():
    torch.manual_seed(0)
    weight = FactoredWeight(40, 10, gain=0.3, rho=0.95)
    factors = weight.eval()()
    assert factors["U"].shape == (40, 16) and factors["V"].shape == (16, 40)
    values = torch.linalg.svdvals(factors["U"] @ factors["V"])
    torch.testing.assert_close(values[:10], torch.full((10,), 0.95), rtol=1e-4, atol=0)
    assert values[10:].max() < 1e-5
    assert {name: tuple(p.shape) for name, p in weight.named_parameters()} == {"U": (40, 10), "V": (10, 40)}


def test_stacked_parameters_start_block_by_block():
    made = stacked(32, (2, 0))
    assert made.weight.shape == (64, 32) and made.bias.tolist() == [2.0] * 32 + [0.0] * 32
    assert made.weight.abs().max() <= (6 / 64) ** 0.5 and made.weight[32:].std() > 0.1
    first, second = orthogonal(16, 16, 0.5, 0.1).chunk(2)
    torch.testing.assert_close(first @ first.mT, 0.25 * torch.eye(16), rtol=0, atol=1e-6)
    torch.testing.assert_close(second @ second.mT, 0.01 * torch.eye(16), rtol=0, atol=1e-6)
