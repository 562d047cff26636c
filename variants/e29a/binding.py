"""Tensors of the E29a kernel."""

from elmanctl.families import tape
from elmanctl.families.tape import constants

__all__ = ["constants", "kernel"]

kernel = tape.kernel(__package__)
