"""Tensors and compile-time constants of the Blank kernel."""

from elmanctl.kernel import Kernel

kernel = Kernel(
    package=__package__,
    inputs={"x": "B T D", "a": "D @acc", "h0": "B D @acc"},
    outputs={"y": "B T D", "h_last": "B D @acc"},
    saved={"h": "B T D @acc"},
    backward_outputs={"a_part": "B D @acc"},
    constants={"LINEAR": "1: no tanh"},
    torch_gradients=("a",),
    after_backward="weight_gradients",
    # A state is a sum over the steps; the gradient of a also sums over the batch.
    terms={"*": "T", "a": "B*T"},
    budgets={"spill_bytes": 0},
)


def constants(config) -> dict[str, int]:
    """Return the compile-time constants of a Config."""
    return {"LINEAR": int(config.linear)}
