"""The minLSTM layer."""

from elmanctl.families.pointwise_layer import MinimalLayer

from . import binding


class Layer(MinimalLayer):
    """Source: README.md, equations 1 to 3."""

    binding = binding
    projections = 3
