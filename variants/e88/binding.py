"""Tensors and compile-time constants of the E88 kernel.

* `qkv` is the fused raw projection as it leaves the GEMM; silu, norm, decay and gates are inside the kernel, in fp32.
* The parts of the decay parameters are sums over time of one (batch, head); torch adds them over the batch.
"""

from elmanctl.kernel import Kernel
from elmanctl.spread import HEADS, STEPS

GATES = {"silu": 1, "sigmoid": 2}

kernel = Kernel(
    package=__package__,
    inputs={
        "qkv": "B T 2*H*N+(1-TIED)*H*M",
        "decay_logit": "B T H ?DECAY_LOGIT",
        "A_log": "H @acc ?MAMBA",
        "dt_bias": "H @acc ?MAMBA",
        "decay_bias": "H @acc ?CONSTANT",
        "write_logit": "B T H ?WRITE_GATE",
        "gate": "B T H*M ?GATE",
        "s0": "B H M N @acc",
    },
    outputs={"y": "B T H*M", "s_last": "B H M N @acc"},
    saved={"slots": "B H cdiv(T,K) M N @acc", "readout": "B T H*M @acc ?GATE"},
    backward_scratch={
        "history": "B H K+1 M N @acc ?GLOBAL_HISTORY",
        "partial": "B H 2*K 16 2*N @acc ?GLOBAL_HISTORY",
    },
    backward_outputs={
        "A_log_part": "B H @acc ?MAMBA",
        "dt_bias_part": "B H @acc ?MAMBA",
        "decay_bias_part": "B H @acc ?CONSTANT",
    },
    constants={
        "N": "key width of a head",
        "M": "value width of a head",
        "K": "steps between two saved states; HEADS chooses",
        "GLOBAL_HISTORY": "1: a chunk's states go to global memory, since they do not fit on the chip",
        "TIED": "1: v is k after its activation",
        "SILU": "1: silu on q, k and v",
        "UNIT": "1: q and k have unit length",
        "LINEAR": "1: no tanh",
        "DECAY_LOGIT": "1: the decay depends on the input",
        "MAMBA": "1: decay exp(-exp(A_log) softplus(logit + dt_bias)), else sigmoid(logit)",
        "CONSTANT": "1: decay sigmoid(decay_bias)",
        "WRITE_GATE": "1: the write is scaled by sigmoid(write_logit)",
        "GATE": "1: output times silu(gate), 2: times sigmoid(gate)",
    },
    torch_gradients=("A_log", "dt_bias", "decay_bias"),
    after_backward="weight_gradients",
    # States, slots and all sums stay in the accumulator's dtype. The bf16 build's tanh is 1 - 2 / (1 + 2^x) from the hardware's
    # exponential and reciprocal (math.cuh): 1e-7 beside the true value whatever its size, so a state below that is noise.
    rounds={"tanh": "absolute 2e-7"},
    # A state sums T writes of sums over N; a gradient also sums over M rows; a head's parameters over the batch and time besides.
    terms={"y": "T*N", "s_last": "T*N", "*": "T*(N+M)", **dict.fromkeys(("A_log", "dt_bias", "decay_bias"), "B*T*N*M")},
    # None up to n=96; at n=128 the 512 threads of a block have 128 registers each: 76 bytes, 100 with write gate, linear state and gate.
    budgets={"registers": 168, "spill_bytes": 100, "shared_bytes": 4096},
    work={"forward": "7*B*T*H*N*M", "backward": "21*B*T*H*N*M"},
    rivals=("fla_gated_delta", "mamba_scan"),
    tiling=HEADS,
)


# Elements and side up to which a chunk's states fit in shared memory, in fp64 too.
SHARED_STATE, SHARED_WIDTH = 1600, 64


def constants(config) -> dict[str, int]:
    """Return the compile-time constants of a Config. Value residual and output norm sit between readout and gate; with either,
    the layer applies the gate itself."""
    m = config.n_v
    fused_gate = config.use_gate and not (config.use_value_residual or config.use_output_norm)
    return {
        "N": config.n_state,
        "M": m,
        "K": STEPS,
        "GLOBAL_HISTORY": int(m * config.n_state > SHARED_STATE or max(m, config.n_state) > SHARED_WIDTH),
        "TIED": int(config.tie_kv),
        "SILU": int(config.use_silu),
        "UNIT": int(config.use_l2_norm),
        "LINEAR": int(config.linear_state),
        "DECAY_LOGIT": int(config.decay in ("mamba", "simple")),
        "MAMBA": int(config.decay == "mamba"),
        "CONSTANT": int(config.decay == "constant"),
        "WRITE_GATE": int(config.use_write_gate),
        "GATE": GATES[config.gate_activation] if fused_gate else 0,
    }
