"""Tensors of the E2 kernel: h[t] = tanh(wx[t] + W h[t-1]), read out as it is. B counts the rows of all slots that share W."""

from elmanctl.families.dense import constants
from elmanctl.families.dense import kernel as dense_kernel

__all__ = ["constants", "kernel"]

kernel = dense_kernel(__package__)
