"""Recurrences of one run beside a yardstick: an other variant of the run at the same sizes.

* A step of a dense recurrence is compared by its products and by the exchanges between blocks, on which it waits; a matrix state by its elements.
* Sizes are the same where rows, steps and width are; of matrix states, where steps, states (rows times heads) and their keys are; of a kernel
  that declares neither a width D nor heads H of keys N, where all are.
"""

import math
from typing import TYPE_CHECKING

from elmanctl.kernelbench.inputs import Call
from elmanctl.tensors import TensorSpec, evaluate

if TYPE_CHECKING:
    from elmanctl.kernelbench.run import Row

COLUMNS = (
    "model", "B", "T", "state", "us/step", "us/step with backward", "of the copy rate", "times", "times with backward",
    "products", "a product", "exchanges", "an exchange", "ps/element", "times ",
)  # fmt: skip


def facts(call: Call) -> dict[str, int | dict[str, int]]:
    """Return what a row keeps of a call: its sizes, elements of its states, and products and exchanges of a step.

    An exchange follows each product of a step, and the sums over all channels that a tape needs; a product is W h for a matrix of the state's
    width, or one of low rank: as many as the declared work has, and one for each exchange at least.
    """
    kernel, sizes = call.kernel, call.sizes
    states = [spec for spec in kernel.output_specs if "T" not in spec.dims and spec.present(call.constants)]
    elements = sum(math.prod(spec.shape(sizes)) for spec in states)
    scratch = (TensorSpec.parse(name, text) for name, text in kernel.scratch.items())
    rings = sum("RING" in spec.dims[0] and spec.present(call.constants) for spec in scratch)
    ordered = sum(name.endswith("CHUNKS") for name in kernel.tiling.constants) if rings else 0
    exchanges = max(ordered, rings)
    square = 2 * sizes["B"] * sizes["T"] * sizes.get("D", 1) ** 2
    products = max(exchanges, evaluate(kernel.work.get("forward", "0"), sizes) // square) if exchanges else 0
    return {"sizes": dict(sizes), "state": elements, "products": products, "exchanges": exchanges}


def cells(rows: "list[Row]", yardstick: str, copy_gb_s: float) -> list[list[str]]:
    """Return the table's cells, one line for each kernel that was timed; what has no meaning for a row is empty.

    Args:
        yardstick: name of the variant that others are compared with.
        copy_gb_s: rate of a copy, measured in the same run.
    """
    own = [row for row in rows if row.step and row.sizes]
    known = {_like(row): row for row in reversed(own) if row.variant == yardstick}
    return [_line(row, known.get(_like(row)), copy_gb_s) for row in own]


def _like(row: "Row") -> tuple:
    s = row.sizes
    if "D" in s:
        return "vector", s["B"], s["T"], s["D"]
    return ("matrix", s["T"], s["B"] * s["H"], s["N"]) if _matrix(row) else tuple(sorted(s.items()))


def _matrix(row: "Row") -> bool:
    return "D" not in row.sizes and {"H", "N"} <= row.sizes.keys() and row.state > 0


def _line(row: "Row", other: "Row | None", copy_gb_s: float) -> list[str]:
    s, times, matrix = row.sizes, [""] * 2, _matrix(row)
    state = f"{s['H']} of {row.state // (s['B'] * s['H'])}" if matrix else f"{row.state // s['B']}"
    line = [row.model, str(s["B"]), str(s["T"]), state, f"{row.step[0]:.3f}", f"{row.step[1]:.3f}"]
    line.append("" if row.gb_s is None else f"{row.gb_s / copy_gb_s:.0%}")
    if other:
        times = [f"{mine / its:.2f}" for mine, its in zip(row.step, other.step, strict=True)]
    line += times
    for count, of in ((row.products, other and other.products), (row.exchanges, other and other.exchanges)):
        each = f"{row.step[1] / count / (other.step[1] / of):.2f}" if count and of else ""
        line += [str(count) if count else "", each]
    if not matrix:
        return [*line, "", ""]
    element = 1e6 * row.step[1] / row.state
    return [*line, f"{element:.2f}", f"{element / (1e6 * other.step[1] / other.state):.2f}" if other else ""]


def note(yardstick: str) -> str:
    """Return what a reader must know to use the table."""
    return (
        f"Beside {yardstick} of this run at the same rows, steps and width, or number of states and keys: times of its time; time with backward of "
        "a product and of an exchange between blocks, and of an element of the state in a step, in picoseconds, each over the same of it."
    )
