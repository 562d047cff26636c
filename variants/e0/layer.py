"""The E0 layer: tanh recurrence in a single-branch shell without silu, with a choice of gates."""

import torch
from torch import Tensor, nn

from elmanctl.families.dense_layer import DenseLayer
from elmanctl.shells import GAIN, RecurrentWeight, linear

from . import binding

RHO = 0.99  # largest singular value of W_h where weight=normed
PURE_GAIN = 0.5  # of W_h without a gate
SCALE = -0.01  # logit of the first scale of an orthogonal W_h


class ScaledOrthogonal(nn.Module):
    """sigmoid(scale) Q with a fixed random orthogonal Q, [d, d], that is saved with the model."""

    def __init__(self, d: int):
        super().__init__()
        self.scale = nn.Parameter(torch.full((), SCALE))
        self.register_buffer("Q", nn.init.orthogonal_(torch.empty(d, d)))

    def forward(self) -> Tensor:
        return torch.sigmoid(self.scale) * self.Q


class Layer(DenseLayer):
    """Source: README.md, equations 1 to 4."""

    binding = binding
    activate = False

    def make_cell(self, inner: int, config) -> None:
        self.W_x = linear(inner, inner)
        if config.weight == "orthogonal":
            self.W_h = ScaledOrthogonal(inner)
        else:
            gain = PURE_GAIN if config.gate == "none" else GAIN
            self.W_h = RecurrentWeight(inner, RHO if config.weight == "normed" else None, gain)
        if config.gate == "input":
            self.W_g = linear(inner, inner)
        elif config.gate != "none":
            self.b_g = nn.Parameter(torch.zeros(inner))

    def inputs(self, u: Tensor) -> dict[str, Tensor]:
        made = {"wx": self.W_x(u), "W": self.W_h()}
        if self.config.gate == "none":
            return made
        return {**made, "q": self.W_g(u) if self.config.gate == "input" else u + self.b_g}
