"""Options that every variant has whose layer is a cell in a shell (elmanctl/shells.py): input projection, cell, output projection.

Torch is not imported.
"""

from dataclasses import dataclass

from elmanctl.variant import option


@dataclass(frozen=True)
class CellOptions:
    """The cell's width and what comes before it; a variant's Config, or its family's Options, adds its own."""

    expansion: float = option(1.0, "width of the cell over the model width")
    conv: bool = option(False, "a causal convolution over four steps, channel by channel, before the cell")


def recurrence():
    """Return the option of every Config whose recurrence multiplies its state by a matrix in each step."""
    return option(
        "kernel",
        "kernel, or cuBLAS products in each step: for widths that the kernel does not hold",
        ("kernel", "cublas"),
        same=True,
    )


@dataclass(frozen=True)
class ProductOptions(CellOptions):
    """Those of a cell that multiplies its state by a matrix in every step."""

    recurrence: str = recurrence()
