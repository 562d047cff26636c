"""Tensors of the cell. `slots` are the states before each step, `read` the read-out before its gate."""

from elmanctl.kernel import Kernel

kernel = Kernel(
    package=__package__,
    inputs={
        "x": "B T H N", "decay": "B T H @acc", "gate": "B T H N", "W": "H N N @acc", "s0": "B H N @acc",
    },
    outputs={"y": "B T H N", "s_last": "B H N @acc"},
    saved={"slots": "B T H N @acc", "read": "B T H N @acc"},
    backward_outputs={"W_part": "B H N N @acc"},
    constants={"N": "width of a head"},
    torch_gradients=("W",),
    after_backward="sum_parts",
    terms={"*": "T*N", "W": "B*T*N"},
)  # fmt: skip


def constants(config):
    """Return the compile-time constants."""
    return {"N": config.n}
