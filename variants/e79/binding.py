"""Tensors of the E79 kernel: S and M, each N x N, M gating what S forgets and S what M forgets."""

from elmanctl.families.matrix import STEPS, verify_sizes
from elmanctl.kernel import Kernel

__all__ = ["PARAMETERS", "constants", "kernel", "verify_sizes"]

PARAMETERS = ("s_bias", "m_bias")
SHARED = 32  # sides up to which a chunk's states, two a step, fit in shared memory, in fp64 too

kernel = Kernel(
    package=__package__,
    inputs={
        "projected": "B T VECTORS*H*N",
        "s_bias": "H N @acc ?LEARNED",
        "m_bias": "H N @acc ?LEARNED",
        "s0": "B H N N @acc",
        "m0": "B H N N @acc",
    },
    outputs={"y": "B T H*N", "s_last": "B H N N @acc", "m_last": "B H N N @acc"},
    saved={"slots": "B H cdiv(T,K) 2 N N @acc", "readout": "B T H*N @acc"},
    backward_scratch={"history": "B H K 2 N N @acc ?GLOBAL_HISTORY"},
    backward_outputs={"parameter_parts": "B H 2 N @acc ?LEARNED"},
    constants={
        "N": "rows and columns of a state",
        "K": "steps between two saved pairs of states",
        "GLOBAL_HISTORY": "1: a chunk's states go to global memory, since they do not fit on the chip",
        "VECTORS": "raw vectors of a step: 4, or 6 where the last two are the gates' biases",
        "LEARNED": "1: the gates have biases s_bias and m_bias",
    },
    torch_gradients=PARAMETERS,
    after_backward="weight_gradients",
    # A state sums T writes of sums over N; a gradient also sums over its rows; a bias over the batch and time besides.
    terms={"y": "T*N", "s_last": "T*N", "m_last": "T*N", "*": "2*T*N", **dict.fromkeys(PARAMETERS, "B*T*N")},
    budgets={"registers": 255, "spill_bytes": 0, "shared_bytes": 4096},
    work={"forward": "24*B*T*H*N*N", "backward": "84*B*T*H*N*N"},
    rivals=("fla_gated_delta", "mamba_scan"),
)


def constants(config) -> dict[str, int]:
    """Return the compile-time constants of a Config."""
    return {
        "N": config.n_state,
        "K": STEPS,
        "GLOBAL_HISTORY": int(config.n_state > SHARED),
        "VECTORS": 6 if config.bias == "projected" else 4,
        "LEARNED": int(config.bias == "learned"),
    }
