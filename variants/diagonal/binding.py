"""Tensors of the diagonal recurrence's kernel: wx is W_x x, x the cell's input again, for the gate; bias is b, then b_g.

The two lie apart, since x is no projection.
"""

from elmanctl.families import pointwise

kernel = pointwise.kernel(
    __package__,
    2,
    vectors=("alpha",),
    inputs=("wx", "x"),
    constants={"TANH": "1: tanh of the state"},
    tanh=True,
    flops=(8, 16),
)


def constants(config) -> dict[str, int]:
    """Return the compile-time constants of a Config."""
    return pointwise.constants(config) | {"TANH": int(config.activation == "tanh")}
