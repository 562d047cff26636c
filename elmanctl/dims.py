"""Exact parameter counts and the search for a width that meets a parameter budget.

* A count is that of real models, built on torch's meta device: no memory, and no formula of a variant's that could differ from its code.
* The search walks only widths that the variant's rules allow; counts rise with the width, so it bisects.
"""

import math
from collections.abc import Iterable
from functools import lru_cache

import msgspec

from elmanctl.errors import UserError
from elmanctl.rules import Multiple
from elmanctl.sizes import short_count
from elmanctl.variant import Spec

DEPTH, DEEPEST = 20, 10_000  # layers: by default, and more than anybody trains
TOLERANCE = 0.06
# For a variant that states no rule on its width: the method's tile for a fair comparison.
METHOD_STEP = 128
FINER = (64, 32, 16)  # steps that are tried where the method's comes to no width within tolerance
WIDEST = 2**20


class Size(msgspec.Struct, frozen=True):
    """A width with its exact parameter count and the bytes of recurrent state that one sequence carries at its start."""

    dim: int
    depth: int
    params: int
    state_bytes: int

    def error(self, target: int) -> float:
        """Return how far the count lies from a budget, as a signed share of it."""
        return self.params / target - 1


class Fit(msgspec.Struct, frozen=True, kw_only=True):
    """The widths around a budget: the widest at or below it, the narrowest above it, and the nearer of the two."""

    model: str
    target: int
    tolerance: float
    below: Size | None
    nearest: Size
    above: Size | None

    @property
    def within(self) -> bool:
        """Whether the nearest width meets the budget within the tolerance."""
        return abs(self.nearest.error(self.target)) <= self.tolerance


@lru_cache(maxsize=4096)
def size(spec: Spec, dim: int, depth: int = DEPTH) -> Size:
    """Build LadderLM on the meta device, of one step of depth and of two, and count.

    Every further step is built as the second is, so that it adds as much; a trial checks the count of the whole model.

    Args:
        spec: the variant with its options.
        dim: model width; rules are not applied here.
        depth: number of residual layers.
    Raises:
        UserError: when a package that the variant needs is absent, the layer refuses the width, or a size is too large to be counted.
    """
    if dim > WIDEST:
        raise UserError(f"{spec.name}: dim={dim} is more than {WIDEST}, the most that is counted. Give a smaller one.")
    import torch
    from torch.utils._pytree import tree_flatten

    from elmanctl import meta
    from elmanctl.model import LadderLM, parameter_count

    try:
        with meta.building():
            one, two = (parameter_count(LadderLM(spec, dim, steps)) for steps in (1, 2))
            states = [layer.initial_state(1, torch.device("meta"), torch.float32) for layer in spec.layers(dim)]
    except RuntimeError as error:
        if "overflow" not in str(error):
            raise
        raise UserError(
            f"{spec.name} of width {dim} has tensors of more than 2^63 bytes. Give smaller sizes."
        ) from error
    leaves, _ = tree_flatten(states)
    return Size(dim, depth, one + (depth - 1) * (two - one), depth * sum(leaf.nbytes for leaf in leaves))


def count(spec: Spec, dim: int, depth: int = DEPTH) -> int:
    """Return the exact number of parameters of the language model around a variant."""
    return size(spec, dim, depth).params


class Lattice:
    """The widths that a variant's rules allow.

    Args:
        spec: the variant with its options.
        align: step of the widths in place of the method's; None keeps the method's rule.
        relaxed: names of sizes whose method rules are waived.
    Raises:
        UserError: when `align` is finer than what the kernel can run.
    """

    def __init__(self, spec: Spec, align: int | None = None, relaxed: tuple[str, ...] = ()):
        self.spec = spec
        rules = [rule for rule in spec.variant.rules.of("dim") if isinstance(rule, Multiple)]
        hard = math.lcm(*(rule.step for rule in rules if not rule.method))
        method = math.lcm(hard, *(rule.step for rule in rules if rule.method)) if rules else METHOD_STEP
        if align is not None and (align < 1 or align % hard):
            near = sorted({max(hard, align // hard * hard), max(hard, -(-align // hard) * hard)})
            raise UserError(
                f"{spec.name}: align {align} is not a multiple of {hard}, the finest step its kernel runs. "
                f"Nearest: {', '.join(map(str, near))}."
            )
        self.step = align or (hard if "dim" in relaxed else method)
        self.relaxed = tuple({*relaxed, *(("dim",) if self.step % method else ())})

    @property
    def last(self) -> int:
        """The last index that is looked at."""
        return WIDEST // self.step

    def legal(self, index: int) -> bool:
        """Return whether the width `index` * step passes every rule."""
        try:
            self.spec.check(index * self.step, self.relaxed)
        except UserError:
            return False
        return True

    def first(self, indices: Iterable[int]) -> int | None:
        """Return the first legal one of some indices."""
        return next((index for index in indices if self.legal(index)), None)


def search(
    spec: Spec,
    params: int,
    depth: int = DEPTH,
    tolerance: float = TOLERANCE,
    align: int | None = None,
    relaxed: tuple[str, ...] = (),
) -> Fit:
    """Find the legal widths whose counts lie around a parameter budget.

    Raises:
        UserError: when the options break a rule, a package is absent, or the budget lies out of reach of every legal width.
    """
    spec.check(None, relaxed)
    lattice = Lattice(spec, align, relaxed)

    def at(index: int) -> Size:
        return size(spec, index * lattice.step, depth)

    # `low`: the widest legal width known to lie at or below the budget (0: none); `high`: the narrowest known above it.
    end = lattice.last + 1
    low, high = 0, lattice.first(range(1, end))
    if high is None:
        raise UserError(f"{spec.name}: its rules allow no width that is a multiple of {lattice.step}.")
    while high < end and at(high).params <= params:
        low, high = high, lattice.first(range(2 * high, end)) or end
    while inner := lattice.first(between(low, high)):
        low, high = (inner, high) if at(inner).params <= params else (low, inner)
    below, above = at(low) if low else None, at(high) if high < end else None
    found = [s for s in (below, above) if s is not None]
    fit = Fit(
        model=spec.name,
        target=params,
        tolerance=tolerance,
        below=below,
        above=above,
        nearest=min(found, key=lambda s: abs(s.params - params)),
    )
    if len(found) == 1 and not fit.within:
        only = found[0]
        bound, word = ("least", "smallest") if below is None else ("most", "largest")
        raise UserError(
            f"{spec.name}: {short_count(params)} parameters are out of reach at depth {depth}: the {word} legal width, {only.dim}, "
            f"has {short_count(only.params)} ({only.params:,}). Ask for at {bound} that, or change --depth or --align."
        )
    return fit


def finer(spec: Spec, fit: Fit, depth: int = DEPTH) -> int | None:
    """Return the coarsest of the finer steps of the width at which a budget that was missed is met; None where none does, or for one that was met."""
    for step in () if fit.within else FINER:
        try:
            if search(spec, fit.target, depth, fit.tolerance, step).within:
                return step
        except UserError:  # finer than its kernel runs
            continue
    return None


def between(low: int, high: int) -> Iterable[int]:
    """Yield the integers strictly between two, the middle first."""
    middle = (low + high) // 2
    for offset in range(high - low):
        yield from (i for i in dict.fromkeys((middle - offset, middle + offset)) if low < i < high)
