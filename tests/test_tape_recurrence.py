"""The tape recurrence: numbers of slots that do not fill the lanes, turns and partly empty tiles, and what a block's memory holds."""

import pytest
import torch

from elmanctl import launch, ops
from elmanctl.families import tape
from elmanctl.plugins.registry import registry
from elmanctl.tensors import cdiv
from elmanctl.tiles import DEVICES, ROWS, TILE, DoesNotFit

H200 = DEVICES["sm_90a"]


@pytest.mark.parametrize(
    ("name", "N", "B", "T", "D", "division"),
    [
        ("E29c", 10, 2, 18, 16, {"RING": 8, "FAR": 0}),
        ("E29a", 3, 33, 2, 80, {"TILES": 3, "WARPS": 8, "TURNS": 3, "FAR": 1}),
    ],
    ids=[
        "two slots a lane, two saved tapes, the shortest ring twice around",
        "an empty turn, a block with two of three tiles",
    ],
)
def test_the_kernel_equals_its_reference_in_fp64(name, N, B, T, D, division):
    variant = registry().resolve(f"{name}n{N}").variant
    kernel, reference = variant.kernel(), variant.module("reference")
    generator = torch.Generator().manual_seed(0)
    shapes = {s.name: s.shape({"B": B, "T": T, "D": D, "N": N}) for s in kernel.input_specs}
    drawn = reference.draw("typical", shapes, {}, lambda *s: torch.randn(*s, generator=generator, dtype=torch.float64))
    found = {}
    for backend in ("reference", "host"):
        inputs = {key: t.clone().requires_grad_() for key, t in drawn.items()}
        with ops.using(backend), launch.divided(division):
            outputs = ops.recurrence(kernel, inputs, {"CUBLAS": 0, "N": N, "K": tape.STEPS})
            total = sum((o * o).sum() for o in outputs.values())
            found[backend] = [*outputs.values(), *torch.autograd.grad(total, list(inputs.values()))]
    for truth, ours in zip(found["reference"], found["host"], strict=True):
        assert (truth - ours).abs().max() < 1e-12 * truth.abs().max()


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize(("N", "B", "D"), [(8, 32, 1024), (8, 128, 1024), (64, 32, 640), (1, 3, 48)])
def test_a_division_has_room_for_the_tape(N, B, D, dtype):
    sizes = {"B": B, "D": D, "N": N}
    if dtype == "float32" and (N, D) != (1, 48):
        B = sizes["B"] = 8
    c = tape.choose(sizes, dtype, H200)
    assert tape.shared_bytes(c, sizes, dtype) <= H200.shared_bytes
    assert cdiv(cdiv(B, ROWS), c["TURNS"]) * cdiv(D, TILE * c["TILES"]) <= H200.multiprocessors
    assert c["WARPS"] >= 2 * c["TILES"]


def test_what_does_not_fit_is_refused_with_a_way_out():
    with pytest.raises(DoesNotFit, match=r"D=1536, N=64, B=32 in bfloat16: .* recurrence=cublas"):
        tape.choose({"B": 32, "D": 1536, "N": 64}, "bfloat16", H200)


def test_the_ring_is_the_longer_one_where_all_that_is_exchanged_takes_no_more_of_the_cache():
    """At B=32, D=1024 operands and sums of 64 steps would take 17 MB of it: measured, 3 to 6 % slower over both passes than 32 steps."""
    rings = [tape.ring({"B": B, "D": 1024, "N": N}, "bfloat16") for B, N in ((32, 8), (16, 8), (8, 8), (16, 64))]
    assert rings == [32, 64, 64, 32] and tape.choose({"B": 32, "D": 1024, "N": 8}, "bfloat16", H200)["RING"] == 32
