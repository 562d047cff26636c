"""The diagonal recurrence's layer."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elmanctl.families.pointwise_layer import PointwiseLayer

from . import binding


class Layer(PointwiseLayer):
    """Source: README.md, equations 1 to 3."""

    binding = binding
    biases = (0.0, 0.0)  # of W_x u, and of u in the gate
    unprojected = 1
    activate = False  # the early levels have silu with the convolution only

    def make_parameters(self, inner: int, config) -> None:
        self.a = nn.Parameter(torch.full((inner,), -2.0))

    def vectors(self) -> dict[str, Tensor]:
        return {"alpha": torch.sigmoid(self.a)}

    def inputs(self, u: Tensor) -> dict[str, Tensor]:
        return {"wx": F.linear(u, self.W), "x": u}
