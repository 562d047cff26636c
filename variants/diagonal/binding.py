"""Tensors of the diagonal recurrence's kernel: wx is W_x x + b, x the cell's input again, for the gate.

The two lie apart, since x is no projection.
"""

from elmanctl.families import pointwise

kernel = pointwise.kernel(
    __package__,
    {"wx": "B T D", "x": "B T D"},
    vectors=("alpha", "b_g"),
    constants={"TANH": "1: tanh of the state"},
    tanh=True,
    flops=(8, 16),
)


def constants(config) -> dict[str, int]:
    """Return the compile-time constants of a Config."""
    return pointwise.constants(config) | {"TANH": int(config.activation == "tanh")}
