"""The diagonal recurrence's layer."""

import torch
from torch import Tensor, nn

from elmanctl.families.pointwise_layer import PointwiseLayer

from . import binding


class Layer(PointwiseLayer):
    """Source: README.md, equations 1 to 3."""

    binding = binding
    biases = (0.0,)
    activate = False  # the early levels have silu with the convolution only

    def make_parameters(self, inner: int, config) -> None:
        self.a = nn.Parameter(torch.full((inner,), -2.0))
        self.b_g = nn.Parameter(torch.zeros(inner))

    def vectors(self) -> dict[str, Tensor]:
        return {"alpha": torch.sigmoid(self.a), "b_g": self.b_g}

    def inputs(self, u: Tensor) -> dict[str, Tensor]:
        return {"wx": self.W(u), "x": u}
