"""Parameters that do not move, modes that differ, buffers that training changes, layers that do not compile: each is found."""

import pytest
import torch
from test_layers import Config, FakeVariant, Gated

from elmanctl import ops
from elmanctl.spectral import SpectralNorm
from elmanctl.variant import Spec
from elmanctl.verify import captured, layers, training
from elmanctl.verify.plan import Plan, Request


class Started(Gated):
    """As Gated, where no state stands for zeros."""

    def forward(self, x, state=None):
        return super().forward(x, state or self.initial_state(x.shape[0], x.device, x.dtype))


def check(what, layer):
    return training.check_training(Spec(FakeVariant(layer), Config(gate=True)), what, "library", "cpu", 0)


@pytest.mark.parametrize("what", training.CHECKS)
def test_a_right_layer_passes_also_with_a_zero_output_projection(what):
    class Zero(Started):
        def __init__(self, dim, config):
            super().__init__(dim, config)
            torch.nn.init.zeros_(self.scale)

    assert check(what, Started).ok and check(what, Zero).ok


def test_a_parameter_that_stays_is_named():
    dead = type("Dead", (Started,), {"dead": True})
    found = check("moves", dead)
    assert not found.ok and found.message == "3 AdamW steps do not move ghost"


def test_a_parameter_that_becomes_nan_is_named():
    class Root(Started):
        def forward(self, x, state=None):
            y, last = super().forward(x, state)
            return y + (self.scale - self.scale.detach()).abs().sqrt(), last

    found = check("moves", Root)
    assert not found.ok and "scale" in found.message and "not finite" in found.message


def test_a_layer_that_computes_otherwise_in_training_fails():
    class Moody(Started):
        def forward(self, x, state=None):
            y, last = super().forward(x, state)
            return (y * 1.001 if self.training else y), last

    found = check("modes", Moody)
    assert not found.ok and found.message.startswith("training mode differs from evaluation in y")


def test_a_buffer_that_training_updates_fails_unless_it_is_spectral_normalisation():
    class Counting(Started):
        def __init__(self, dim, config):
            super().__init__(dim, config)
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x, state=None):
            if self.training:
                self.seen += 1
            return super().forward(x, state)

    class Normed(Started):
        def __init__(self, dim, config):
            super().__init__(dim, config)
            self.norm = SpectralNorm(dim, 0.9)

        def forward(self, x, state=None):
            y, last = super().forward(x, state)
            return y + x @ self.norm(self.V.weight), last

    found = check("modes", Counting)
    assert not found.ok and "training updates seen" in found.message
    found = check("modes", Normed)
    assert found.ok and found.message == "equal, given that training updates norm.u (spectral normalisation)"


def test_a_kernel_layer_must_agree_bit_for_bit_between_modes(spec, monkeypatch):
    plan = Plan(Request(spec, "cpu"))
    assert plan.run(plan.named("layer modes")).ok
    original = layers.forward

    def nudged(layer, x, state, where):
        y, last = original(layer, x, state, where)
        return (y * (1 + 2**-22) if layer.training else y), last

    monkeypatch.setattr(layers, "forward", nudged)
    assert not plan.run(plan.named("layer modes")).ok


def test_a_state_that_is_lost_between_single_steps_fails_token_by_token():
    class Forgetful(Started):
        def forward(self, x, state=None):
            y, last = super().forward(x, state)
            return y, {"sum": last["sum"] * (0.98 if x.shape[1] == 1 else 1)}

    spec = Spec(FakeVariant(Forgetful), Config())
    assert not layers.check_layer(spec, "tokens", "library", "cpu", 0).ok
    assert layers.check_layer(spec, "split", "library", "cpu", 0).ok


def test_a_layer_that_breaks_the_graph_or_changes_in_it_fails(spec, monkeypatch):
    plan = Plan(Request(spec, "cpu"))
    assert plan.run(plan.named("layer compile")).ok
    original = ops.recurrence

    def otherwise(kernel, inputs, constants):
        results = original(kernel, inputs, constants)
        return {n: t * 1.01 for n, t in results.items()} if torch.compiler.is_compiling() else results

    def broken(kernel, inputs, constants):
        torch._dynamo.graph_break()
        return original(kernel, inputs, constants)

    module = spec.variant.module("layer")
    name = next(n for n in ("recurrence", "ops") if hasattr(module, n))
    for wrong, said in ((otherwise, ""), (broken, "Unsupported")):
        monkeypatch.setattr(*((module, name) if name == "recurrence" else (ops, "recurrence")), wrong)
        found = plan.run(plan.named("layer compile"))
        assert not found.ok and said in found.message, said


def test_compilation_and_graphs_are_asked_of_layers_with_a_kernel(spec):
    assert captured.names(spec, "cpu") == ["compile"] and captured.names(spec, "cuda") == ["compile", "graph"]
    assert captured.names(Spec(FakeVariant(), Config()), "cuda") == []
    assert {"layer compile", "layer moves", "layer modes", "layer tokens"} <= {
        t.id for t in Plan(Request(spec, "cpu")).tasks()
    }
