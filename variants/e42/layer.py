"""The E42 layer: tied linear recurrence with self-gated readout in a single-branch shell."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elmanctl.families.dense_layer import DenseLayer

from . import binding


class Layer(DenseLayer):
    """Source: README.md, equations 1 to 3."""

    binding = binding
    rho = 0.999  # nothing else bounds the state

    def make_cell(self, inner: int, config) -> None:
        self.W = self.recurrent_weight(inner)
        self.b = nn.Parameter(torch.zeros(inner))

    def inputs(self, u: Tensor) -> dict[str, Tensor]:
        W = self.W()
        return {"wx": F.linear(u, W, self.b), "W": W}
