"""The E1 layer: tanh recurrence in a split shell, gated by the second branch."""

from torch import Tensor

from elmanctl.ops import recurrence
from elmanctl.shells import RecurrentWeight, Shell, linear

from .binding import constants, kernel

RHO = 0.99  # largest singular value of W_h


class Layer(Shell):
    """Source: README.md, equations 1 to 3."""

    split = True

    def make_cell(self, inner: int, config) -> None:
        self.constants = constants(config)
        self.W_x = linear(inner, inner)
        self.W_h = RecurrentWeight(inner, RHO if config.spectral_norm else None)

    def cell(self, state: dict[str, Tensor], u: Tensor, z: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        inputs = {"wx": self.W_x(u), "z": z, "W": self.W_h(), "h0": state["h"]}
        out = recurrence(kernel, inputs, self.constants)
        return out["y"], {"h": out["h_last"]}
