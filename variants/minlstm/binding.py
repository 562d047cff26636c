"""Tensors of the minLSTM kernel: proj is u, then f, then i."""

from elmanctl.families import pointwise
from elmanctl.families.pointwise import constants

__all__ = ["constants", "kernel"]

kernel = pointwise.kernel(__package__, 3, biased=False, flops=(14, 24))
