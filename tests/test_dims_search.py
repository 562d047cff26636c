"""The search for a width against trying every width, and what it refuses."""

from dataclasses import dataclass

import pytest

from elmanctl import dims
from elmanctl.errors import UserError
from elmanctl.plugins.registry import registry
from elmanctl.rules import Multiple, Rules
from elmanctl.variant import Spec, Variant


@dataclass(frozen=True)
class NoOptions:
    pass


@pytest.fixture
def toy(monkeypatch):
    """A variant whose model has dim^2 parameters, with rules to try: returns a function of its rules."""
    monkeypatch.setattr(dims, "size", lambda spec, dim, depth: dims.Size(dim, depth, dim * dim * depth, 0))

    def make(*rules, combinations=()):
        own = Rules(sizes={"dim": rules} if rules else {}, combinations=combinations)
        return Spec(Variant(package="toy", name="T", summary="", config=NoOptions, rules=own), NoOptions())

    return make


HARD, METHOD = Multiple(16, "tiles"), Multiple(128, "alignment", method=True)


@pytest.mark.parametrize("target", [128**2, 300**2, 1000**2, 1024**2, 99_999_999])
@pytest.mark.parametrize("align", [None, 16, 32, 48])
def test_the_search_finds_what_trying_every_width_finds(toy, target, align):
    fit = dims.search(toy(HARD, METHOD), target, depth=1, tolerance=1.0, align=align)
    widths = range(align or 128, 20_000, align or 128)
    assert fit.below.dim == max((d for d in widths if d * d <= target), default=None)
    assert fit.above.dim == min(d for d in widths if d * d > target)
    assert fit.nearest.dim == min(widths, key=lambda d: abs(d * d - target))


def test_widths_that_a_combination_refuses_are_left_out(toy):
    odd_heads = (("whole groups of heads", lambda config, dim: "odd" if dim and dim // 128 % 4 else None),)
    fit = dims.search(toy(HARD, METHOD, combinations=odd_heads), 1100**2, depth=1, tolerance=1.0)
    assert (fit.below.dim, fit.above.dim) == (1024, 1536)


def test_relaxed_goes_down_to_the_hard_rule(toy):
    assert dims.search(toy(HARD, METHOD), 1008**2, depth=1, relaxed=("dim",)).nearest.dim == 1008


def test_a_variant_without_rules_is_searched_at_the_methods_step(toy):
    assert dims.search(toy(), 1000**2, depth=1).nearest.dim == 1024


def test_align_below_the_hard_rule_is_refused(toy):
    with pytest.raises(UserError, match=r"align 8 is not a multiple of 16.*Nearest: 16\."):
        dims.search(toy(HARD, METHOD), 10**6, align=8)
    with pytest.raises(UserError, match=r"Nearest: 16, 32\."):
        dims.search(toy(HARD, METHOD), 10**6, align=24)


def test_a_budget_below_the_smallest_width_names_what_is_reachable(toy):
    with pytest.raises(
        UserError, match=r"out of reach at depth 4: the smallest legal width, 128, has 65.54K \(65,536\)"
    ):
        dims.search(toy(HARD, METHOD), 1000, depth=4)


def test_a_budget_above_the_widest_width_names_what_is_reachable(toy):
    with pytest.raises(UserError, match="out of reach at depth 1: the largest legal width"):
        dims.search(toy(HARD, METHOD), 10**14, depth=1)


def test_tolerance_decides_what_is_within(toy):
    fit = dims.search(toy(HARD, METHOD), 960**2, depth=1, tolerance=0.13)
    assert fit.nearest.dim == 896 and fit.nearest.error(960**2) == pytest.approx(-0.1289, abs=1e-4) and fit.within
    assert not dims.search(toy(HARD, METHOD), 960**2, depth=1, tolerance=0.12).within


def test_options_that_break_a_rule_are_refused_before_anything_is_built():
    with pytest.raises(UserError, match="n_state=20"):
        dims.search(registry().resolve("E75h4n20"), 10**8)
