"""Tensors of the leaky integrator; GAIN is an optional factor on the output."""

from elmanctl.kernel import Kernel

kernel = Kernel(
    package=__package__,
    inputs={"x": "B T D", "a": "D @acc", "h0": "B D @acc", "gain": "D @acc ?GAIN"},
    outputs={"y": "B T D", "h_last": "B D @acc"},
    saved={"h": "B T D @acc"},
    backward_outputs={"a_part": "B D @acc", "gain_part": "B D @acc ?GAIN"},
    constants={"GAIN": "1: y = gain h, 0: y = h"},
    torch_gradients=("a", "gain"),
    after_backward="sum_parts",
)


def constants(config):
    return {"GAIN": 0}
