"""Tensors of the minGRU kernel: proj is u, then k."""

from elmanctl.families import pointwise
from elmanctl.families.pointwise import constants

__all__ = ["constants", "kernel"]

kernel = pointwise.kernel(__package__, 2, biased=False, flops=(7, 14))
