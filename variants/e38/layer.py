"""The E38 layer: tanh recurrence without an input weight, self-gated, in a single-branch shell."""

import torch
from torch import Tensor, nn

from elmanctl.families.dense_layer import DenseLayer

from . import binding


class Layer(DenseLayer):
    """Source: README.md, equations 1 to 3."""

    binding = binding
    rho = 0.99

    def make_cell(self, inner: int, config) -> None:
        self.W_h = self.recurrent_weight(inner)
        self.b = nn.Parameter(torch.zeros(inner))

    def inputs(self, u: Tensor) -> dict[str, Tensor]:
        return {"wx": u + self.b, "W": self.W_h()}
