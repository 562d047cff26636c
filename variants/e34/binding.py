"""Tensors of the E34 kernel: proj is W_x u, bias b, delta what a channel keeps of its state."""

from elmanctl.families import pointwise
from elmanctl.families.pointwise import constants

__all__ = ["constants", "kernel"]

kernel = pointwise.kernel(__package__, 1, vectors=("delta",), tanh=True, flops=(7, 14))
