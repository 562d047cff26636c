"""Tensors of the E42 kernel: h[t] = W (silu(u[t]) + h[t-1]) + b, read out through itself."""

from elmanctl.families.tied import constants
from elmanctl.families.tied import kernel as tied_kernel

__all__ = ["constants", "kernel"]

kernel = tied_kernel(__package__)
