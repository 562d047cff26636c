"""The E42 layer: tied linear recurrence with self-gated readout in a single-branch shell."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elmanctl.ops import recurrence
from elmanctl.shells import RecurrentWeight, Shell

from .binding import constants, kernel

RHO = 0.999  # largest singular value of W: the state must not grow, since nothing bounds it


class Layer(Shell):
    """Source: README.md, equations 1 to 3."""

    def make_cell(self, inner: int, config) -> None:
        self.constants = constants(config)
        self.W = RecurrentWeight(inner, RHO if config.spectral_norm else None)
        self.b = nn.Parameter(torch.zeros(inner))

    def cell(self, state: dict[str, Tensor], u: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        W = self.W()
        out = recurrence(kernel, {"wx": F.linear(u, W, self.b), "W": W, "h0": state["h"]}, self.constants)
        return out["y"], {"h": out["h_last"]}
