"""The E29a layer."""

from elmanctl.families.tape_layer import TapeLayer

from . import binding


class Layer(TapeLayer):
    """Source: README.md, equations 1 to 7."""

    binding = binding
