"""Tensors of the E67 kernel: proj is W_a u, then W_x u, bias b_a, then b; w_a the diagonal in the gate."""

from elmanctl.families import pointwise
from elmanctl.families.pointwise import constants

__all__ = ["constants", "kernel"]

kernel = pointwise.kernel(__package__, 2, vectors=("w_a",), tanh=True, flops=(14, 26))
