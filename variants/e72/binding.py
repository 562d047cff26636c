"""Tensors of the E72 kernel: S[t] = diag(a) S[t-1] + diag(1 - a) (v * g) k^T with g = sigmoid(memory * rho(S[t-1] k) + value_bias)."""

from elmanctl.families import matrix
from elmanctl.families.matrix import verify_sizes

__all__ = ["PARAMETERS", "constants", "kernel", "verify_sizes"]

PARAMETERS = ("retain_bias", "memory", "value_bias")

kernel = matrix.kernel(
    __package__,
    vectors=4,
    parameters=PARAMETERS,
    more_constants={"INVERSE": "1: the value's gate opens where the memory is small"},
    # A few bytes at n=64, where a lane holds sixteen elements of state and gradient. Above 168 registers at n=8, several states in a warp.
    budgets={"registers": 176, "spill_bytes": 64, "shared_bytes": 4096},
)


def constants(config) -> dict[str, int]:
    """Return the compile-time constants of a Config; at n=96 eight steps of four rows would not fit in shared memory in fp64."""
    shared = matrix.constants(config)
    return shared | {"INVERSE": int(config.memory == "inverse"), "K": shared["K"] if config.n_state <= 64 else 4}
