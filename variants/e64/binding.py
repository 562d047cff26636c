"""Tensors of the E64 kernel: proj is W_a u + b_a, then W_x u + b."""

from elmanctl.families import pointwise
from elmanctl.families.pointwise import constants

__all__ = ["constants", "kernel"]

kernel = pointwise.kernel(__package__, pointwise.projections(2), tanh=True, flops=(13, 22))
