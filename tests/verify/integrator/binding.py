"""Tensors of the integrator."""

from elmanctl.kernel import Kernel

kernel = Kernel(
    package=__package__,
    inputs={"x": "B T D", "a": "D @acc", "h0": "B D @acc"},
    outputs={"y": "B T D", "h_last": "B D @acc"},
    saved={"h": "B T D @acc"},
    backward_outputs={"a_part": "B D @acc"},
    constants={"BOUNDED": "1: tanh on the state"},
    torch_gradients=("a",),
    after_backward="sum_parts",
)


def constants(config):
    """Return the compile-time constants."""
    return {"BOUNDED": int(config.bounded)}
