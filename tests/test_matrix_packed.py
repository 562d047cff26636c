"""Many small matrix states, several in a warp, on the host: against the reference, whatever their number, and beside a warp for each."""

import pytest
import torch
from test_matrix_state import check

from elmanctl import launch
from elmanctl.launch import guarded, run_backward, run_forward
from elmanctl.plugins.registry import registry

NAMES = [
    "E70n8",
    "E71n8",
    "E72in8",
    "E73n8",
    "E73fn8:form=plain",
    "E73rn8:save_every=1",
    "E74n8:update=ntm,gate=input,projection=tied_kvq",
    "E74n8:gate=retain,projection=full",
    "E74n16:update=retrieved_gate,state=low_rank",
    "E74n16:state=block",
    "E75h3n8:decay=log_space",
    "E88h3n8:use_gate=true,use_write_gate=true",
    "E88h3n8:expansion=2",
    "E88h3n16:expansion=0.5,linear_state=true",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("B", [1, 3])
def test_states_that_share_a_warp(name, B):
    """Of three heads: fewer states than a warp takes, and as many as leave the last one partly empty."""
    with launch.divided({"SPREAD": 0, "PACKED": 1}):
        check(name, "float64", 11, draw="extreme", B=B)


@pytest.mark.parametrize("name", ["E75h3n8", "E88h3n8", "E88h3n8:expansion=2"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_lower_precision(name, dtype):
    with launch.divided({"SPREAD": 0, "PACKED": 1}):
        check(name, dtype, 35)


@pytest.mark.parametrize("name", ["E75h3n8", "E88h3n8"])
def test_a_warp_for_each(name):
    """The plan of small states that are neither few nor many."""
    with launch.divided({"SPREAD": 0, "PACKED": 0}):
        check(name, "float64", 19)


def test_a_state_is_the_same_whoever_shares_its_warp():
    """Bit by bit, in both passes: five states, of which the last is alone in its warp, and one by one."""
    spec = registry().resolve("E75h1n8")
    kernel, constants = spec.variant.kernel(), spec.variant.module("binding").constants(spec.config)
    draw = torch.Generator().manual_seed(0)
    given = {
        "qkvb": torch.randn(5, 11, 32, generator=draw),
        "beta_bias": torch.randn(1, 8, generator=draw),
        "s0": torch.randn(5, 1, 8, 8, generator=draw),
    }
    upstream = {"d_y": torch.randn(5, 11, 8, generator=draw), "d_s_last": torch.randn(5, 1, 8, 8, generator=draw)}

    def run(rows):
        inputs = {n: t if n == "beta_bias" else t[rows].contiguous() for n, t in given.items()}
        with launch.divided({"SPREAD": 0, "PACKED": 1}), guarded():
            found = run_forward(kernel, constants, inputs)
            back = {n: t[rows].contiguous() for n, t in upstream.items()}
            return found | run_backward(kernel, constants, inputs | found, back)

    whole, again = run(slice(0, 5)), run(slice(0, 5))
    assert all(torch.equal(t, again[n]) for n, t in whole.items())
    for b in range(5):
        one = run(slice(b, b + 1))
        for name in ("y", "s_last", "slots", "d_qkvb", "d_s0"):
            assert torch.equal(one[name][0], whole[name][b]), (b, name)
