"""Tensors of the E1 kernel: h[t] = tanh(wx[t] + W h[t-1]), read out through the gate z."""

from elmanctl.families.dense import constants
from elmanctl.families.dense import kernel as dense_kernel

__all__ = ["constants", "kernel"]

kernel = dense_kernel(__package__, gates=("z",))
