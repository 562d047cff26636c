"""Which sizes are timed: a base shape, sweeps of one size with the others fixed, and a grid of all."""

import itertools
from dataclasses import dataclass, replace

from elmanctl.errors import UserError
from elmanctl.records import Trial, rows_each
from elmanctl.sizes import parse_count

SWEEPS = {
    "T": (512, 2048, 8192, 32768),
    "B": (8, 32, 64, 128),
    "dim": (768, 1536, 2048),
}
ALL = "all"
GRID_T = (512, 8192)  # with every B and dim of the sweeps
SWEPT_TOKENS = 32768  # of a sweep along T at least, so that its longest T has one row


@dataclass(frozen=True)
class Shape:
    """Rows of a batch, steps, and width of the layer."""

    B: int = 32
    T: int = 512
    dim: int = 1536

    def text(self) -> str:
        """Return `B=32 T=512 dim=1536`."""
        return f"B={self.B} T={self.T} dim={self.dim}"


def of_trial(trial: Trial) -> Shape:
    """Return what each pass of a trial gives a layer on one GPU."""
    return Shape(rows_each(trial, trial.micro_batches), trial.training.chunk, trial.dim)


def parse_shape(text: str | None, base: Shape = Shape()) -> Shape:
    """Read `B=32,T=512,dim=1536`; what is not named is that of `base`.

    Raises:
        UserError: for another key or a value that is no positive whole number.
    """
    given = {}
    for part in [] if text is None else text.split(","):
        key, equals, value = part.partition("=")
        names = {name.lower(): name for name in SWEEPS}
        if not equals or key.strip().lower() not in names:
            raise UserError(
                f"--shape {text}: {part!r} is none of B=, T= and dim=. Write for example B=32,T=512,dim=1536."
            )
        given[names[key.strip().lower()]] = parse_count(value, f"--shape {key.strip()}")
    return replace(base, **given)


def parse_sweeps(text: str | None) -> list[str]:
    """Read `T,B,dim` or `all`."""
    wanted = [part.strip() for part in (text or "").split(",") if part.strip()]
    known = (*SWEEPS, ALL)
    if unknown := next((part for part in wanted if part not in known), None):
        raise UserError(f"--sweep {unknown}: sizes that can be swept are {', '.join(SWEEPS)}, or all of them: {ALL}.")
    return list(dict.fromkeys(wanted))


def sweep(base: Shape, axis: str) -> list[Shape]:
    """Return the shapes along one axis, the base's own value among them; along T the number of positions B T is held."""
    values = sorted({*SWEEPS[axis], getattr(base, axis)})
    if axis != "T":
        return [replace(base, **{axis: value}) for value in values]
    tokens = max(base.B * base.T, SWEPT_TOKENS)
    return [replace(base, T=value, B=max(1, tokens // value)) for value in values]


def chosen(base: Shape, axes: list[str], sees_width: bool) -> list[Shape]:
    """Return the base shape and what the axes add, the least work first.

    Args:
        axes: as parse_sweeps gives them; `all` is the grid of T, B and width, or B and T where the width does not matter.
        sees_width: whether the kernel's sizes depend on the layer's width; its axis is left out where they do not.
    """
    found = {base: None}
    for axis in axes:
        if axis == ALL and sees_width:
            sizes = itertools.product(SWEEPS["B"], GRID_T, SWEEPS["dim"])
            found |= dict.fromkeys(Shape(*size) for size in sizes)
        elif axis == ALL:
            found |= dict.fromkeys([*sweep(base, "B"), *sweep(base, "T")])
        elif axis != "dim" or sees_width:
            found |= dict.fromkeys(sweep(base, axis))
    return [base, *sorted(found.keys() - {base}, key=lambda s: (s.B * s.T * s.dim**2, s.T, s.dim))]
