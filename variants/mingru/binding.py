"""Tensors of the minGRU kernel: proj is u, then k."""

from elmanctl.families import pointwise
from elmanctl.families.pointwise import constants

__all__ = ["constants", "kernel"]

kernel = pointwise.kernel(__package__, pointwise.projections(2), flops=(7, 14))
