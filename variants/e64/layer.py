"""The E64 layer."""

from elmanctl.families.pointwise_layer import PointwiseLayer

from . import binding


class Layer(PointwiseLayer):
    """Source: README.md, equations 1 to 3."""

    binding = binding
    biases = (2.0, 0.0)  # of a, so that a state keeps 0.88 of itself at first, and of x
