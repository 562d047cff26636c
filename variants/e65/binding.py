"""Tensors of the E65 kernel: proj is W_a u, then W_x u, bias b_a, then b; w_h the diagonal in the candidate."""

from elmanctl.families import pointwise
from elmanctl.families.pointwise import constants

__all__ = ["constants", "kernel"]

kernel = pointwise.kernel(__package__, 2, vectors=("w_h",), tanh=True, flops=(14, 24))
