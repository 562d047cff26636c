"""Tensors of the E67 kernel: proj is W_a u + b_a, then W_x u + b; w_a the diagonal in the gate."""

from elmanctl.families import pointwise
from elmanctl.families.pointwise import constants

__all__ = ["constants", "kernel"]

kernel = pointwise.kernel(__package__, pointwise.projections(2), vectors=("w_a",), tanh=True, flops=(14, 26))
