"""Tensors of the E68 kernel: proj is W_a u, then W_x u, bias b_a, then b; w_g and b_g make the write gate from the state."""

from elmanctl.families import pointwise

kernel = pointwise.kernel(
    __package__,
    2,
    vectors=("w_g", "b_g"),
    constants={"INHIBIT": "1: a large state closes the write gate"},
    tanh=True,
    flops=(17, 32),
)


def constants(config) -> dict[str, int]:
    """Return the compile-time constants of a Config."""
    return pointwise.constants(config) | {"INHIBIT": int(config.inhibit)}
