"""Tensors of the E64 kernel: proj is W_a u, then W_x u, bias b_a, then b."""

from elmanctl.families import pointwise
from elmanctl.families.pointwise import constants

__all__ = ["constants", "kernel"]

kernel = pointwise.kernel(__package__, 2, tanh=True, flops=(13, 22))
