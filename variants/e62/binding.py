"""Tensors of the E62 kernel: proj is the write gate's argument and the value's, and of the form `decay` the decay's."""

from elmanctl.families import pointwise

kernel = pointwise.kernel(
    __package__,
    "I",
    constants={"I": "projections: 2, or 3 with a decay of its own"},
    tanh=True,
    flops=(9, 18),
)


def constants(config) -> dict[str, int]:
    """Return the compile-time constants of a Config."""
    return pointwise.constants(config) | {"I": 3 if config.form == "decay" else 2}
