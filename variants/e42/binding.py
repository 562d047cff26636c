"""Tensors of the E42 kernel: h[t] = wx[t] + W h[t-1], read out through itself."""

from elmanctl.families.dense import constants
from elmanctl.families.dense import kernel as dense_kernel

__all__ = ["constants", "kernel"]

kernel = dense_kernel(__package__)
