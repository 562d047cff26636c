"""The E61 layer."""

from elmanctl.families.pointwise_layer import PointwiseLayer

from . import binding

SUMMED = 0.1  # of the value's weight where values are summed


class Layer(PointwiseLayer):
    """Source: README.md, equations 1 to 3."""

    binding = binding

    def initial_biases(self, config) -> tuple[float, ...]:
        return (0.0,) if config.form == "shared" else (2.0, 0.0)

    def make_parameters(self, inner: int, config) -> None:
        if config.form == "sum":
            self.W.detach()[inner:].mul_(SUMMED)
