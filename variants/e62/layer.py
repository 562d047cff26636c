"""The E62 layer."""

from elmanctl.families.pointwise_layer import PointwiseLayer

from . import binding


class Layer(PointwiseLayer):
    """Source: README.md, equations 1 to 3."""

    binding = binding

    def initial_biases(self, config) -> tuple[float, ...]:
        return (-2.0, 0.0, 2.0) if config.form == "decay" else (-2.0, 0.0)
