"""Tensors of the E42 kernel: the linear recurrence h[t] = wx[t] + W h[t-1] and its self-gated readout."""

from elmanctl.kernel import Kernel
from elmanctl.tiles import DENSE

kernel = Kernel(
    package=__package__,
    inputs={"wx": "B T D", "W": "D D", "h0": "B D @acc"},
    outputs={"y": "B T D", "h_last": "B D @acc"},
    saved={"h": "B T D @acc"},
    scratch={"exchange": "RING*8*cdiv(B,8)*D"},
    backward_scratch={"exchange": "RING*8*cdiv(B,8)*D"},
    backward_outputs={"former": "B T D"},
    constants={"CUBLAS": "1 for one cuBLAS product a step in place of the kernel"},
    torch_gradients=("W",),
    after_backward="weight_gradients",
    rounds={"h_operand": "forward", "d_pre": "backward"},
    # A state is T sums over D; the gradient of W sums B T products of such.
    terms={"*": "T*D", "W": "B*T*D"},
    budgets={"registers": 255, "spill_bytes": 0, "shared_bytes": 4096},
    work={"forward": "2*B*T*D*D", "backward": "4*B*T*D*D"},
    rivals=("cudnn_rnn", "cublas_loop", "flashrnn"),
    tiling=DENSE,
)


def constants(config) -> dict[str, int]:
    """Return the compile-time constants that depend on options."""
    return {"CUBLAS": int(config.recurrence == "cublas")}
