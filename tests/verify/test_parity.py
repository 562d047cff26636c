"""Training with the kernel and with the reference: curves coincide, and a wrong gradient bends one."""

import pytest
import torch

from elmanctl import ops
from elmanctl.verify import parity
from elmanctl.verify.plan import Plan, Request
from elmanctl.verify.rounding import Rounding


def test_the_batches_are_those_of_the_seed_and_can_be_learnt():
    one, two = parity.batches(0), parity.batches(0)
    assert torch.equal(one, two) and not torch.equal(one, parity.batches(1))
    assert one.shape == (parity.STEPS, parity.ROWS, parity.LENGTH + 1)
    following: dict[int, set] = {}
    for a, b in zip(one[..., :-2].flatten().tolist(), one[..., 1:-1].flatten().tolist(), strict=True):
        following.setdefault(a, set()).add(b)
    assert sum(len(f) == 1 for f in following.values()) > parity.PERIOD / 2


def test_a_right_kernel_follows_the_reference_and_wrong_gradients_do_not(spec, monkeypatch):
    """One channel too large, 2 % of another channel added, and a step late. AdamW hides the size of a gradient, not its direction."""
    truth = parity.curve(spec, "reference", torch.float64, "cpu", 0)
    noisy = [parity.curve(spec, "reference", torch.float64, "cpu", 0, Rounding(None, "float32", i)) for i in range(3)]
    assert truth[0] - truth[-1] > parity.FALL and 0 < abs(noisy[0] - truth).max() < 1e-4

    def row():
        return parity.compare(parity.curve(spec, "host", torch.float32, "cpu", 0), truth, noisy)

    assert row().ok
    right = ops.run_backward
    wrong = {
        "one channel": lambda g: {**g, "d_x": g["d_x"] * (1 + 0.1 * (torch.arange(g["d_x"].shape[-1]) == 3))},
        "2 % of another": lambda g: {**g, "d_x": g["d_x"] + 0.02 * g["d_x"].roll(1, -1)},
        "late": lambda g: {**g, "d_x": g["d_x"].roll(-1, 1)},
    }
    for name, spoil in wrong.items():
        monkeypatch.setattr(ops, "run_backward", lambda *given, spoil=spoil: spoil(right(*given)))
        found = row()
        assert not found.ok and found.tensor == "loss" and found.start is not None, name


def test_a_model_that_learns_nothing_shows_nothing(spec, monkeypatch):
    monkeypatch.setattr(parity, "RATE", 1e-9)
    monkeypatch.setattr(parity, "STEPS", 12)
    plan = Plan(Request(spec, "cpu"))
    check = plan.run(plan.named("layer train"))
    assert not check.ok and "too little is learnt" in check.message


@pytest.mark.parametrize("more", [False, True])
def test_it_is_one_more_check_on_request(spec, more):
    ids = [t.id for t in Plan(Request(spec, "cpu", quick=True, train=more)).tasks()]
    assert ("layer train" in ids) is more
