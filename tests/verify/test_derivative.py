"""A layer's truth is held against differences: a backward pass that is wrong there is wrong in what it would be compared with too."""

import pytest
import torch

from elmanctl import ops
from elmanctl.plugins.registry import registry
from elmanctl.shells import RecurrentWeight
from elmanctl.verify import derivative, layers, liveness

DIM = 24


class Product(torch.autograd.Function):
    """x W^T with a backward pass of its own, damaged by `fault`."""

    @staticmethod
    def forward(ctx, x, W, fault):
        ctx.save_for_backward(x, W)
        ctx.fault = fault
        return x @ W.mT

    @staticmethod
    def backward(ctx, d):
        x, W = ctx.saved_tensors
        d_x, d_W = d @ W, d.flatten(0, 1).mT @ x.flatten(0, 1)
        if ctx.fault == "late":
            d_x = torch.cat([d_x[:, 1:], d_x[:, :1]], 1)
        return (
            d_x,
            {
                "": lambda g: g,
                "late": lambda g: g,
                "doubled": lambda g: 2 * g,
                "scaled by 2 %": lambda g: 1.02 * g,
                "transposed": lambda g: g.mT,
                "half of it zero": lambda g: torch.cat([g[: len(g) // 2], 0 * g[len(g) // 2 :]]),
                "one element": lambda g: g + 0.1 * (torch.arange(g.numel()) == 5).view(g.shape) * g,
            }[ctx.fault](d_W),
            None,
        )


class Plain(torch.nn.Module):
    """y = (s + cumsum(x)) V^T W^T; `fault` damages a backward pass written by hand. V is small, and so is what reaches it."""

    def __init__(self, fault=""):
        super().__init__()
        self.fault = fault
        self.V = torch.nn.Parameter(1e-4 * torch.randn(DIM, DIM))
        self.W = torch.nn.Parameter(torch.randn(DIM, DIM))

    def product(self, x):
        return Product.apply(x, self.W, self.fault)

    def forward(self, x, state):
        sums = state["s"][:, None] + x.cumsum(1)
        return self.product(sums @ self.V.mT), {"s": sums[:, -1]}


def setting(made, seed=0):
    torch.manual_seed(seed)
    x, s = torch.randn(2, 9, DIM), torch.randn(2, DIM)
    return layers.Setting(made.double().eval(), "Layer", x.double(), {"s": s.double()}, seed)


@pytest.mark.parametrize("fault", ["doubled", "scaled by 2 %", "transposed", "half of it zero", "one element"])
def test_a_wrong_gradient_of_a_parameter_is_found_and_named(fault):
    with pytest.raises(layers.BadGradient, match=r"^the gradient of W \(along"):
        layers.truth_of(setting(Plain(fault)))


def test_a_wrong_gradient_of_an_input_is_found_in_what_it_reaches():
    with pytest.raises(layers.BadGradient) as found:
        layers.truth_of(setting(Plain("late")))
    assert [name in f"{found.value}" for name in ("x (along", "V (along", "W (along")] == [True, True, False]


def test_a_right_backward_pass_by_hand_passes_also_where_little_reaches_a_parameter():
    for seed in range(5):
        layers.truth_of(setting(Plain(), seed), 1)


@pytest.mark.parametrize("fault", ["doubled", ""])
def test_the_tools_own_projections_are_held_to_it_by_every_check_that_has_a_truth(fault, monkeypatch):
    right = ops._Project.backward

    def backward(ctx, *gradients):
        silu, x, *weights = right(ctx, *gradients)
        return silu, x, *(2 * w for w in weights)

    spec = registry().resolve("E42")
    if fault:
        monkeypatch.setattr(ops._Project, "backward", staticmethod(backward))
    option = liveness.flips(spec)[0]
    checks = [
        layers.check_layer(spec, "truth", "reference", "cpu", 0),
        liveness.check_option(spec, *option, "reference", "cpu", 0),
    ]
    assert [c.ok for c in checks] == [not fault] * 2
    if fault:
        assert all("W_in.weight (along" in c.message and "W_out.weight (along" in c.message for c in checks)
        assert "differences" in checks[0].message and not any("d_W" in r.tensor for r in checks[0].rows)


class Kink(Plain):
    def product(self, x):
        return torch.relu(x @ self.W.mT)


class Rounded(Plain):
    """Straight through: what detach() cuts out is a constant to autograd."""

    def product(self, x):
        raw = x @ self.W.mT
        return raw + (raw.round() - raw).detach()


class Moving(Plain):
    """A buffer that each run moves, in evaluation too."""

    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.ones(()))

    def product(self, x):
        self.scale.mul_(1.1)
        return self.scale * (x @ self.W.mT)


class Normalised(Plain):
    """Spectral normalisation, whose singular vectors are no part of the graph; they are not yet right ones."""

    def __init__(self):
        super().__init__()
        self.norm = RecurrentWeight(DIM, 0.9)
        torch.nn.init.normal_(self.norm.weight)

    def product(self, x):
        return x @ self.norm().mT + x @ self.W.mT


@pytest.mark.parametrize("layer", [Kink, Rounded, Moving, Normalised])
def test_what_is_no_mistake_passes(layer):
    for seed in range(5):
        layers.truth_of(setting(layer(), seed), 1)


def test_a_constant_without_detach_is_named_with_what_to_do():
    class Hidden(Plain):
        def product(self, x):
            with torch.no_grad():
                size = x.abs().amax()
            return x / size @ self.W.mT

    with pytest.raises(layers.BadGradient, match=r"x \(along.*detach\(\)"):
        layers.truth_of(setting(Hidden()))


def test_a_gradient_that_is_zero_but_for_rounding_is_no_mistake():
    class Shifted(Plain):
        def product(self, x):
            return torch.softmax(x @ self.V.mT + self.W.sum(), -1)  # which a shift does not change

    layers.truth_of(setting(Shifted()), 1)


def test_it_costs_little_beside_the_floor():
    """Counted in runs of the layer, each a forward pass: two a tensor."""
    s, runs = setting(Plain()), []

    def run(layer, inputs):
        runs.append(1)
        return layers.run(layer, inputs, "library")

    truth = layers.evaluate(s, "library", torch.float64)
    bad = derivative.wrong(s.layer, layers.inputs_of(s), run, lambda live: layers.upstream_of(s, live), truth, 0)
    assert not bad and len(runs) == 1 + 2 * 4


@pytest.mark.parametrize("name", [n for n, v in registry().variants().items() if not v.requires])
def test_no_tensor_of_a_shipped_layer_can_hide(name):
    """Every gradient is 2 % too large at once, and each is named."""
    for s in layers.settings(registry().resolve(name), 0):
        where = "reference" if layers.has_kernel(s) else "library"
        truth = {n: 1.02 * t for n, t in layers.evaluate(s, where, torch.float64).items()}
        runs = (lambda layer, inputs, w=where: layers.run(layer, inputs, w)), (lambda x, s=s: layers.upstream_of(s, x))
        bad = derivative.wrong(s.layer, layers.inputs_of(s), *runs, truth, 0)
        tensors = {**layers.inputs_of(s), **dict(s.layer.named_parameters())}
        assert [way.name for way in bad] == [n for n, t in tensors.items() if t.numel()]
