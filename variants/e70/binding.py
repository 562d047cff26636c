"""Tensors of the E70 kernel: S[t] = decay S[t-1] + v k^T, read out through itself."""

from elmanctl.families.matrix import constants, verify_sizes
from elmanctl.families.matrix import kernel as matrix_kernel

__all__ = ["constants", "kernel", "verify_sizes"]

kernel = matrix_kernel(
    __package__,
    vectors=3,
    numbers=("decay",),
    operations=5,
    budgets={"registers": 168, "spill_bytes": 0, "shared_bytes": 4096},
)
