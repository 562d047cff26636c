"""Tensors of the cudalstm kernel: four pre-activations of a channel, each with a row of W; the cell state s never leaves its channel."""

from elmanctl.families import gated
from elmanctl.families.gated import constants

__all__ = ["constants", "kernel"]

kernel = gated.kernel(__package__, inputs=4, kept=5, sums=4, division=gated.square(4, width=768), local=True)
