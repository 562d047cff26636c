"""E1: dense tanh recurrence with a gate of its own input branch."""

from dataclasses import dataclass

from elmanctl.rules import Multiple, Range, Rules, inner_multiple
from elmanctl.variant import Variant, option


@dataclass(frozen=True)
class Config:
    """Options of E1."""

    expansion: float = option(1.0, "width of the cell over the model width")
    recurrence: str = option(
        "kernel",
        "kernel, or one cuBLAS product a step: for widths that the kernel does not hold",
        ("kernel", "cublas"),
        same=True,
    )
    spectral_norm: bool = option(True, "keep the largest singular value of the recurrent weight at 0.99")


variant = Variant(
    package=__name__,
    name="E1",
    summary="dense tanh recurrence with a gate of its own input branch",
    config=Config,
    rules=Rules(
        sizes={
            "dim": (
                Multiple(16, "tiles of the kernel and of the tensor cores"),
                Multiple(128, "one alignment for every model that is compared", method=True),
            ),
            "expansion": Range(0.125, 8.0, "a cell of the model's order of width"),
        },
        combinations=(("a tile of the kernel is 16 wide", inner_multiple(16)),),
    ),
)
