"""The E63 layer: gated blend of state and dense candidate in a single-branch shell."""

from torch import Tensor

from elmanctl.families.gated_layer import orthogonal, stacked
from elmanctl.ops import recurrence
from elmanctl.shells import Shell

from .binding import constants, kernel

BIASES = {"a": (0, 2), "b": (0, 2, 0), "c": (0, 2, 0), "d": (0, 0)}  # of the candidate, alpha and beta
GAINS = {"a": (0.5,), "b": (0.5,), "c": (0.5, 0.1, 0.1), "d": (0.3,)}  # of W_h, U_alpha and U_beta


class Layer(Shell):
    """Source: README.md, equations 1 and 2."""

    def make_cell(self, inner: int, config) -> None:
        self.constants = constants(config)
        self.W_x = stacked(inner, BIASES[config.form])
        self.W_h = orthogonal(inner, inner, *GAINS[config.form])

    def cell(self, state: dict[str, Tensor], u: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        out = recurrence(kernel, {"wx": self.W_x(u), "W": self.W_h, "h0": state["h"]}, self.constants)
        return out["y"], {"h": out["h_last"]}
