"""Tensors of the E29c kernel: gate has g_z, g_r, g_h and b_g."""

from elmanctl.families import tape
from elmanctl.families.tape import constants

__all__ = ["constants", "kernel"]

kernel = tape.kernel(__package__, vectors=4)
