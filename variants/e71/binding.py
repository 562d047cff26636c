"""Tensors of the E71 kernel: S[t] = diag(a) S[t-1] + diag(1 - a) v k^T with a = sigmoid(logit + memory * S[t-1] k + bias)."""

from elmanctl.families.matrix import constants, verify_sizes
from elmanctl.families.matrix import kernel as matrix_kernel

__all__ = ["PARAMETERS", "constants", "kernel", "verify_sizes"]

PARAMETERS = ("memory", "bias")

kernel = matrix_kernel(
    __package__,
    vectors=4,
    parameters=PARAMETERS,
    # A few bytes at n=64, where a lane holds sixteen elements of state and gradient.
    budgets={"registers": 168, "spill_bytes": 32, "shared_bytes": 4096},
)
