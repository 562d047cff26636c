"""The E34 layer."""

import torch
from torch import Tensor, nn

from elmanctl.families.pointwise_layer import PointwiseLayer

from . import binding

BOUND = 0.99  # of |delta|
NEAREST = 0.9999  # of BOUND: where an initial delta would lie at the bound, nothing could move it


class Layer(PointwiseLayer):
    """Source: README.md, equations 1 to 3."""

    binding = binding
    biases = (0.0,)

    def make_parameters(self, inner: int, config) -> None:
        delta = torch.empty(inner).uniform_(0.9, 0.99)
        self.delta_raw = nn.Parameter((delta / BOUND).clamp(max=NEAREST).atanh())

    def vectors(self) -> dict[str, Tensor]:
        return {"delta": BOUND * torch.tanh(self.delta_raw)}
