"""The E66 layer: gated blend of state and candidate of low rank in a single-branch shell."""

from torch import Tensor

from elmanctl.families.gated_layer import FactoredWeight, stacked
from elmanctl.ops import recurrence
from elmanctl.shells import Shell

from .binding import constants, kernel

BIASES, GAIN = (0, 2), 0.5  # of the candidate and alpha; of U and V


class Layer(Shell):
    """Source: README.md, equations 1 and 2."""

    def make_cell(self, inner: int, config) -> None:
        self.constants = constants(config)
        self.W_x = stacked(inner, BIASES)
        self.W_h = FactoredWeight(inner, config.rank or max(inner // 4, 16), GAIN)

    def cell(self, state: dict[str, Tensor], u: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        out = recurrence(kernel, {"wx": self.W_x(u), **self.W_h(), "h0": state["h"]}, self.constants)
        return out["y"], {"h": out["h_last"]}
