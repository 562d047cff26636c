"""The E65 layer."""

import torch
from torch import Tensor, nn

from elmanctl.families.pointwise_layer import PointwiseLayer

from . import binding


class Layer(PointwiseLayer):
    """Source: README.md, equations 1 to 3."""

    binding = binding
    biases = (2.0, 0.0)  # of a, so that a state keeps 0.88 of itself at first, and of x

    def make_parameters(self, inner: int, config) -> None:
        self.w_h = nn.Parameter(torch.full((inner,), 0.5))

    def vectors(self) -> dict[str, Tensor]:
        return {"w_h": self.w_h}
