"""Checks of layers: what counts as a live option, as a dead parameter, as a legal width."""

import dataclasses

import pytest
import torch

from elmanctl.errors import UserError
from elmanctl.options import option, tagged
from elmanctl.rules import Multiple, Rules
from elmanctl.variant import Spec
from elmanctl.verify import layers, liveness


@dataclasses.dataclass(frozen=True)
class Config:
    gate: bool = option(False, "a gate")
    kind: str = option("silu", "its activation", ("silu", "sigmoid"))
    start: float = option(1.0, "initial scale")
    idle: bool = option(False, "connected to nothing")


class Gated(torch.nn.Module):
    """y = scale cumsum(x) act(V x); with a dead parameter on request."""

    dead = False

    def __init__(self, dim, config):
        super().__init__()
        self.config = config
        self.scale = torch.nn.Parameter(config.start * torch.ones(dim))
        self.V = torch.nn.Linear(dim, dim) if config.gate else None
        self.ghost = torch.nn.Parameter(torch.ones(dim)) if self.dead else None

    def initial_state(self, batch, device, dtype):
        return {"sum": torch.zeros(batch, len(self.scale), device=device, dtype=dtype)}

    def forward(self, x, state=None):
        sums = state["sum"][:, None] + x.cumsum(1)
        y = self.scale * sums
        if self.V is not None:
            y = y * (torch.sigmoid if self.config.kind == "sigmoid" else torch.nn.functional.silu)(self.V(x))
        if self.ghost is not None:
            y = y + 0 * self.ghost
        return y, {"sum": sums[:, -1]}


def rules(config, dim):
    return "kind without a gate" if getattr(config, "kind", "silu") != "silu" and not config.gate else None


class FakeVariant:
    """As much of a Variant as the checks use."""

    name, sublayers, requires, library, has_kernel = "Gated", ("Layer",), (), "", False
    rules = Rules(sizes={"dim": Multiple(48, "the test's rule")}, combinations=(("no gate", rules),))

    def __init__(self, layer=Gated):
        self.layer = layer

    def format(self, config):
        return f"Gated {config}"

    def missing(self):
        return []

    def module(self, name):
        return type("M", (), {"Layer": self.layer})


def check(name, value, layer=Gated):
    return liveness.check_option(Spec(FakeVariant(layer), Config()), name, value, "library", "cpu", 0)


def test_the_smallest_legal_width_is_used_and_none_is_an_error():
    assert layers.smallest_dim(Spec(FakeVariant(), Config())) == 48
    strict = FakeVariant()
    strict.rules = Rules(sizes={"dim": Multiple(5000, "a rule that no small width meets")})
    with pytest.raises(UserError, match="multiple of 5000"):
        layers.smallest_dim(Spec(strict, Config()))


def test_options_are_flipped_to_every_other_value():
    spec = Spec(FakeVariant(), Config())
    assert liveness.flips(spec) == [("gate", True), ("kind", "sigmoid"), ("start", 2.0), ("idle", True)]


def test_a_live_option_passes_alone_or_beside_the_one_it_needs():
    assert check("gate", True).ok
    beside = check("kind", "sigmoid")
    assert beside.ok and beside.message == "changes the output beside gate=true"


def test_an_option_that_only_sets_the_start_is_said_to():
    found = check("start", 2.0)
    assert found.ok and "initialisation only" in found.message


def test_an_option_that_needs_a_larger_size_is_tried_there():
    @dataclasses.dataclass(frozen=True)
    class Heads:
        n_heads: int = tagged("h", 1)
        mix: bool = option(False)

    class Mixing(Gated):
        def __init__(self, dim, config):
            super().__init__(dim, Config())
            self.groups = config.n_heads if config.mix else 1

        def forward(self, x, state=None):
            y, state = super().forward(x, state)
            return y.unflatten(-1, (self.groups, -1)).flip(-2).flatten(-2), state

    found = liveness.check_option(Spec(FakeVariant(Mixing), Heads()), "mix", True, "library", "cpu", 0)
    assert found.ok and found.message == "changes the output beside n_heads=2"


def test_an_idle_option_fails():
    found = check("idle", True)
    assert not found.ok and "the output does not change" in found.message


@pytest.mark.parametrize("what", layers.PROPERTIES)
def test_a_right_layer_has_every_property(what):
    assert layers.check_layer(Spec(FakeVariant(), Config(gate=True)), what, "library", "cpu", 0).ok


@pytest.mark.parametrize("what", ["truth", "gradients"])
def test_a_dead_parameter_fails(what):
    dead = type("Dead", (Gated,), {"dead": True})
    found = layers.check_layer(Spec(FakeVariant(dead), Config()), what, "library", "cpu", 0)
    assert not found.ok
    said = found.message or next(r.tensor + r.group for r in found.rows if not r.ok)
    assert "ghost" in said


def test_a_layer_that_sees_the_future_or_another_row_fails():
    class Future(Gated):
        def forward(self, x, state=None):
            return super().forward(x + 1e-3 * x.mean(1, keepdim=True), state)

    class Mixed(Gated):
        def forward(self, x, state=None):
            return super().forward(x + 1e-3 * x.mean(0, keepdim=True), state)

    for what, layer in (("causality", Future), ("rows", Mixed)):
        assert not layers.check_layer(Spec(FakeVariant(layer), Config()), what, "library", "cpu", 0).ok


def test_a_state_that_is_dropped_between_halves_fails():
    class Forgetful(Gated):
        def forward(self, x, state=None):
            y, last = super().forward(x, state)
            return y, {"sum": last["sum"] * 0.98}

    found = layers.check_layer(Spec(FakeVariant(Forgetful), Config()), "split", "library", "cpu", 0)
    assert not found.ok and "y" in {r.tensor for r in found.rows if not r.ok}


def test_a_limit_under_which_anything_would_pass_fails(monkeypatch):
    """As where the noise that makes the limit was written over the result itself: a wrong gradient passed, and any other."""
    truth_of = layers.truth_of

    def loud(s):
        truth, errors = truth_of(s)
        return truth, errors | {"d_scale": errors["d_scale"] * 1e6}

    monkeypatch.setattr(layers, "truth_of", loud)
    found = layers.check_layer(Spec(FakeVariant(), Config(gate=True)), "truth", "library", "cpu", 0)
    assert [(r.tensor, r.group) for r in found.rows if not r.ok] == [
        ("d_scale", "noise above 1 % of it: its limit could hardly fail")
    ]
