"""Tensors of the E73 kernel: S[t] = tanh(S[t-1] + (v - (S[t-1] * Z) k) k^T), or tanh(S[t-1] * Z + v k^T)."""

from dataclasses import replace

from elmanctl.families import matrix
from elmanctl.families.matrix import verify_sizes

__all__ = ["PARAMETERS", "constants", "kernel", "verify_sizes"]

PARAMETERS = ("bias",)

_kernel = matrix.kernel(
    __package__,
    vectors=4,
    parameters=PARAMETERS,
    columns="COLUMN",
    more_constants={
        "PLAIN": "1: decay by modulation and add, without the delta rule",
        "ROW": "1: the modulation multiplies rows",
        "COLUMN": "1: the modulation multiplies columns",
        "EVERY": "1: every state is saved, and (S Z) k with it, so that the backward pass computes none again",
    },
    # The bf16 build's tanh is 1 - 2 / (1 + 2^x) from the hardware's exponential and reciprocal (math.cuh): 1e-7 beside the true
    # value whatever its size, so a state below that is noise.
    rounds={"tanh": "absolute 2e-7"},
    # A few bytes at n=64 with modulation=row, where a lane holds sixteen elements of state and gradient.
    budgets={"registers": 168, "spill_bytes": 32, "shared_bytes": 4096},
)
kernel = replace(
    _kernel,
    saved=_kernel.saved | {"slots": "B H (1-EVERY)*cdiv(T,K)+EVERY*T N N @acc", "kept": "B T H*N @acc ?EVERY"},
    backward_scratch=_kernel.backward_scratch | {"history": "B H (1-EVERY)*(K+1) N N @acc ?GLOBAL_HISTORY"},
)


def constants(config) -> dict[str, int]:
    """Return the compile-time constants of a Config."""
    return matrix.constants(config) | {
        "PLAIN": int(config.form == "plain"),
        "ROW": int(config.modulation != "column"),
        "COLUMN": int(config.modulation != "row"),
        "EVERY": int(config.save_every == 1),
    }
