"""The E4 layer: tanh recurrence of low rank in a split shell, gated by the second branch."""

from torch import Tensor

from elmanctl.families.gated_layer import FactoredWeight
from elmanctl.ops import recurrence
from elmanctl.shells import Shell, linear

from .binding import constants, kernel

RHO, GAIN = 0.95, 0.3  # largest singular value of U V; of the initial U and V


class Layer(Shell):
    """Source: README.md, equations 1 to 3."""

    split = True

    def make_cell(self, inner: int, config) -> None:
        self.constants = constants(config)
        rank = config.rank or max(16, int(self.W_in.in_features / (2 * config.expansion)))
        self.W_x = linear(inner, inner)
        self.W_h = FactoredWeight(inner, rank, GAIN, RHO if config.spectral_norm else None)

    def cell(self, state: dict[str, Tensor], u: Tensor, z: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        inputs = {"wx": self.W_x(u), "z": z, **self.W_h(), "h0": state["h"]}
        out = recurrence(kernel, inputs, self.constants)
        return out["y"], {"h": out["h_last"]}
