"""Which sizes are timed: a base shape, and sweeps of one size with the others fixed."""

from dataclasses import dataclass, replace

from elmanctl.errors import UserError
from elmanctl.sizes import parse_count

SWEEPS = {
    "T": (512, 2048, 8192, 32768),
    "B": (8, 32, 64, 128),
    "dim": (768, 1536, 2048),
}


@dataclass(frozen=True)
class Shape:
    """Rows of a batch, steps, and width of the layer."""

    B: int = 32
    T: int = 512
    dim: int = 1536

    def text(self) -> str:
        """Return `B=32 T=512 dim=1536`."""
        return f"B={self.B} T={self.T} dim={self.dim}"


def parse_shape(text: str | None) -> Shape:
    """Read `B=32,T=512,dim=1536`; what is not named keeps its default.

    Raises:
        UserError: for another key or a value that is no positive whole number.
    """
    given = {}
    for part in filter(None, (text or "").split(",")):
        key, equals, value = part.partition("=")
        names = {name.lower(): name for name in SWEEPS}
        if not equals or key.strip().lower() not in names:
            raise UserError(
                f"--shape {text}: {part!r} is none of B=, T= and dim=. Write for example B=32,T=512,dim=1536."
            )
        given[names[key.strip().lower()]] = parse_count(value, f"--shape {key.strip()}")
    return Shape(**given)


def parse_sweeps(text: str | None) -> list[str]:
    """Read `T,B,dim`."""
    wanted = [part.strip() for part in (text or "").split(",") if part.strip()]
    if unknown := next((part for part in wanted if part not in SWEEPS), None):
        raise UserError(f"--sweep {unknown}: sizes that can be swept are {', '.join(SWEEPS)}.")
    return list(dict.fromkeys(wanted))


def sweep(base: Shape, axis: str) -> list[Shape]:
    """Return the shapes along one axis, the base's own value among them.

    Along T the number of positions B T is held at its largest power-of-two share, so that memory stays bounded: what is compared is
    the time of one step.
    """
    values = sorted({*SWEEPS[axis], getattr(base, axis)})
    if axis != "T":
        return [replace(base, **{axis: value}) for value in values]
    tokens = base.B * base.T
    return [replace(base, T=value, B=max(1, min(base.B, tokens // value))) for value in values]
