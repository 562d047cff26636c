"""Tensors and compile-time constants of the E75 kernel.

* `qkvb` is the fused raw projection as it leaves the GEMM: queries, keys, values and forget-gate logits of all heads.
* The parts of the gate's parameters are sums over time of one (batch, head); torch adds them over the batch.
"""

from elmanctl.kernel import Kernel
from elmanctl.spread import HEADS, STEPS

kernel = Kernel(
    package=__package__,
    inputs={
        "qkvb": "B T 4*H*N",
        "beta_bias": "H N @acc",
        "A_log": "H N @acc ?LOG_SPACE",
        "s0": "B H N N @acc",
    },
    outputs={"y": "B T H*N", "s_last": "B H N N @acc"},
    saved={"slots": "B H cdiv(T,K) N N @acc", "readout": "B T H*N @acc"},
    backward_scratch={
        "history": "B H K+1 N N @acc ?GLOBAL_HISTORY",
        "partial": "B H 2*K 16 2*N @acc ?GLOBAL_HISTORY",
    },
    backward_outputs={"beta_bias_part": "B H N @acc", "A_log_part": "B H N @acc ?LOG_SPACE"},
    constants={
        "N": "rows and columns of a state",
        "K": "steps between two saved states; HEADS chooses",
        "GLOBAL_HISTORY": "1: a chunk's states go to global memory, since they do not fit on the chip",
        "LINEAR": "1: no tanh",
        "LOG_SPACE": "1: forget gate exp(-exp(A_log) softplus(logit + beta_bias)), else sigmoid(logit + beta_bias)",
    },
    torch_gradients=("beta_bias", "A_log"),
    after_backward="weight_gradients",
    # States, slots and all sums stay in the accumulator's dtype. The bf16 build's tanh is 1 - 2 / (1 + 2^x) from the hardware's
    # exponential and reciprocal (math.cuh): 1e-7 beside the true value whatever its size, so a state below that is noise.
    rounds={"tanh": "absolute 2e-7"},
    # A state sums T writes of sums over N; a gradient also sums over its rows; the gate's parameters over the batch and time besides.
    terms={"y": "T*N", "s_last": "T*N", "*": "2*T*N", **dict.fromkeys(("beta_bias", "A_log"), "B*T*N")},
    # None up to n=96; at n=128 the 512 threads of a block have 128 registers each: 280 bytes, and 452 with the sums of a second parameter.
    budgets={"registers": 168, "spill_bytes": 460, "shared_bytes": 4096},
    work={"forward": "7*B*T*H*N*N", "backward": "21*B*T*H*N*N"},
    rivals=("fla_gated_delta", "mamba_scan"),
    tiling=HEADS,
)


SHARED_STATE = 1600  # elements of a state of which a chunk's history fits in shared memory, in fp64 too


def constants(config) -> dict[str, int]:
    """Return the compile-time constants of a Config."""
    return {
        "N": config.n_state,
        "K": STEPS,
        "GLOBAL_HISTORY": int(config.n_state**2 > SHARED_STATE),
        "LINEAR": int(config.linear_state),
        "LOG_SPACE": int(config.decay == "log_space"),
    }
