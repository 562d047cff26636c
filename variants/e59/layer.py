"""The E59 layer: a single-branch shell; what a step adds is one product of all steps."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elmanctl.ops import recurrence
from elmanctl.shells import Shell, linear

from .binding import constants, kernel

SIZE, OPENING = 0.1, -2.0  # first size of a step, and first bias where it is gated


class Layer(Shell):
    """Source: README.md, equations 1 to 4."""

    def make_cell(self, inner: int, config) -> None:
        self.constants = constants(config)
        self.W = linear(inner, inner)
        if config.gated:
            self.W_g = linear(inner, inner)
            nn.init.constant_(self.W_g.bias, OPENING)
        else:
            self.log_size = nn.Parameter(torch.full((), math.log(SIZE)))

    def step(self, u: Tensor) -> Tensor:
        """Return alpha (W u + b), [B, T, inner]."""
        if self.config.gated:
            return torch.sigmoid(self.W_g(u)) * self.W(u)
        size = self.log_size.exp()
        return F.linear(u, size * self.W.weight, size * self.W.bias)

    def cell(self, state: dict[str, Tensor], u: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        out = recurrence(kernel, {"u": self.step(u), "h0": state["h"]}, self.constants)
        return out["y"], {"h": out["h_last"]}
