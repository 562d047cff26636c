"""Stochastic rounding, marked points, and noise."""

import random

import pytest
import torch

from elmanctl.kernel import Kernel
from elmanctl.verify.noise import Noise
from elmanctl.verify.policy import UNITS
from elmanctl.verify.rounding import UNIT, Rounding, stochastic
from elmanctl.verify.truth import unreachable


def kernel(**rounds):
    return Kernel(package="toy", inputs={"x": "B T"}, outputs={"y": "B T"}, rounds=rounds)


def tree():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize(("dtype", "torch_dtype"), [("bfloat16", torch.bfloat16), ("float32", torch.float32)])
def test_stochastic_rounding_gives_a_neighbour_and_is_unbiased(dtype, torch_dtype):
    x = torch.randn(2000, dtype=torch.float64, generator=tree())
    draws = torch.stack([stochastic(x, dtype, tree().manual_seed(i)) for i in range(400)])
    assert torch.equal(draws.to(torch_dtype).double(), draws)  # on the grid
    nearest = x.to(torch_dtype).double()
    step = (draws.max(0).values - draws.min(0).values)[draws.std(0) > 0]
    assert (draws - x).abs().max(0).values.ge((nearest - x).abs()).all()  # never nearer than to nearest
    assert step.gt(0).all() and len(step) > 1900
    bias = (draws.mean(0) - x).abs() / (draws - x).abs().max(0).values
    assert bias.mean() < 0.05
    assert torch.equal(stochastic(nearest, dtype, tree()), nearest)  # what is on the grid stays
    assert torch.equal(stochastic(torch.zeros(3, dtype=torch.float64), dtype, tree()), torch.zeros(3).double())


@pytest.mark.parametrize("direction", ["forward", "backward", "both"])
def test_a_point_rounds_value_or_gradient(direction):
    x = torch.randn(64, dtype=torch.float64, generator=tree(), requires_grad=True)
    upstream = torch.randn(64, dtype=torch.float64, generator=tree())
    with Rounding(kernel(p=direction), "bfloat16", 0) as r:
        y = r.at("p", x)
        (gradient,) = torch.autograd.grad(y, x, upstream)
    rounded = {
        "value": not torch.equal(y.detach(), x.detach()),
        "gradient": not torch.allclose(gradient, upstream, rtol=1e-6, atol=0),
    }
    assert rounded == {"value": direction != "backward", "gradient": direction != "forward"}


def test_a_saved_point_changes_derivatives_only():
    x = torch.randn(64, dtype=torch.float64, generator=tree(), requires_grad=True)
    with Rounding(kernel(p="saved"), "bfloat16", 0) as r:
        y = r.at("p", x).square()
        (gradient,) = torch.autograd.grad(y.sum(), x)
    assert torch.allclose(y, x.square(), rtol=1e-5)
    read_back = (gradient / 2).to(torch.bfloat16).double()
    assert torch.allclose(gradient / 2, read_back, rtol=1e-5)
    assert (gradient / 2 - x).abs().max() > 1e-4


def test_a_point_may_depend_on_a_constant():
    made = Kernel("toy", {"x": "B T"}, {"y": "B T"}, constants={"ON": "1"}, rounds={"p": "forward ?ON", "q": "forward"})
    assert Rounding(made, "bfloat16", 0).points == {"p": "forward", "q": "forward"}
    assert unreachable(made, {"ON": 0}) == {"p"} and unreachable(made, {"ON": 1}) == set()
    with pytest.raises(ValueError, match=r"a rounding point depends on \?OFF, which is not among the constants"):
        kernel(p="forward ?OFF")


def test_noise_is_a_few_units_of_the_accumulator_and_reaches_backward():
    x = torch.randn(64, dtype=torch.float64, generator=tree(), requires_grad=True)
    exact = torch.sigmoid(x)
    (exact_gradient,) = torch.autograd.grad(exact.sum(), x)
    with Rounding(None, "float32", 0):
        y = torch.sigmoid(x)
        (gradient,) = torch.autograd.grad(y.sum(), x)
    error = ((y - exact) / exact).abs().max()
    assert 0.5 * UNITS * UNIT["float32"] < error <= 1.01 * UNITS * UNIT["float32"]
    assert (gradient != exact_gradient).all()


def test_noise_of_a_sum_grows_with_the_root_of_its_terms_even_where_they_cancel():
    size = UNITS * UNIT["float32"]
    for terms in (16, 1024):
        row = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(terms // 2)
        with Rounding(None, "float32", 0):
            sums = torch.stack([row.sum() for _ in range(200)])
            products = torch.ones(200, terms, dtype=torch.float64) @ row[:, None]
        for values in (sums, products):
            assert 0.3 * size * terms < values.abs().max() <= size * terms * 1.01  # sqrt(K) of sqrt(K)


@pytest.mark.parametrize("added", [False, True])
def test_a_product_that_is_written_into_a_given_tensor_has_no_other_noise(added):
    a, b, c = (torch.randn(8, 8, dtype=torch.float64, generator=tree().manual_seed(i)) for i in range(3))
    true = c + a @ b if added else a @ b
    whole = torch.zeros(16, 8, dtype=torch.float64)
    with Rounding(kernel(), "float32", 0):
        torch.addmm(c, a, b, out=whole[8:]) if added else torch.mm(a, b, out=whole[8:])
    error = (whole[8:] - true).abs().max()
    assert 0 < error < 100 * UNITS * UNIT["float32"] and not whole[:8].any()


def test_moving_data_is_exact():
    x = torch.randn(8, 8, dtype=torch.float64, generator=tree())
    with Rounding(None, "float32", 0):
        moved = torch.cat([x.t().contiguous(), torch.stack([-x[0], x[1]])])
    assert torch.equal(moved[:8], x.t()) and torch.equal(moved[8], -x[0])


def test_an_undeclared_point_and_a_wrong_direction_are_errors():
    with Rounding(kernel(p="forward"), "bfloat16", 0) as r, pytest.raises(KeyError, match="rounding point 'q'"):
        r.at("q", torch.zeros(1, dtype=torch.float64))
    with pytest.raises(ValueError, match="p: sideways; use forward"):
        Rounding(kernel(p="sideways"), "bfloat16", 0)


@pytest.mark.parametrize(("dtype", "moved"), [("bfloat16", True), ("float32", False), ("float64", False)])
def test_an_absolute_point_moves_values_of_the_bf16_build_by_its_size(dtype, moved):
    x = torch.tensor([1e-12, 0.5, -1.0], dtype=torch.float64).repeat(500).requires_grad_()
    with Rounding(kernel(p="absolute 2e-7"), dtype, 0) as r:
        y = r.at("p", x)
        (gradient,) = torch.autograd.grad(y, x, torch.ones_like(x))
    error = (y - x).detach().abs()
    assert error.max() <= 2e-7 and (error.view(500, 3).max(0).values > 1.9e-7).all() == moved
    assert torch.allclose(gradient, torch.ones_like(x), rtol=1e-6), "the gradient passes"


@pytest.mark.parametrize("text", ["absolute", "absolute x", "absolute 0", "absolute 1e-3", "absolutely 1e-9"])
def test_an_absolute_point_has_a_small_size(text):
    with pytest.raises(ValueError):
        Rounding(kernel(p=text), "bfloat16", 0)


def test_noise_costs_little_beside_each_operation_and_draws_as_before():
    """The dispatch is our function itself, without torch's guard against compiling; places in the pool are those that randrange gives."""
    assert Noise.__torch_dispatch__.__qualname__ == "Noise.__torch_dispatch__"
    assert not hasattr(Noise.__torch_dispatch__, "__wrapped__")
    noise, known = Noise(1e-7, tree()), random.Random(0)
    assert [noise._below(n) for n in range(1, 3000)] == [known.randrange(n) for n in range(1, 3000)]
