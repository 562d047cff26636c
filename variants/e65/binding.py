"""Tensors of the E65 kernel: proj is W_a u + b_a, then W_x u + b; w_h the diagonal in the candidate."""

from elmanctl.families import pointwise
from elmanctl.families.pointwise import constants

__all__ = ["constants", "kernel"]

kernel = pointwise.kernel(__package__, pointwise.projections(2), vectors=("w_h",), tanh=True, flops=(14, 24))
