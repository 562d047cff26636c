"""The cudagru layer: the cell between an input and an output projection, without silu or gate."""

from torch import Tensor, nn

from elmanctl.families.gated_layer import by_blocks, orthogonal, stacked
from elmanctl.ops import recurrence
from elmanctl.shells import Shell

from .binding import constants, kernel

STD = 0.02  # of the input weights


class Layer(Shell):
    """Source: README.md, equations 1 to 4."""

    activate = False

    def __init__(self, dim: int, config):
        super().__init__(dim, config)
        by_blocks(self.W_in.weight, 1, lambda i, block: nn.init.normal_(block, std=STD))
        nn.init.zeros_(self.W_out.weight)

    def make_cell(self, inner: int, config) -> None:
        self.constants = constants(config)
        self.W = stacked(inner, (0, 0, 0))  # of z, r and n
        by_blocks(self.W.weight, 1, lambda i, block: nn.init.normal_(block, std=STD))
        self.U = orthogonal(inner, inner, 1, 1)
        self.U_n = orthogonal(inner, inner, 1)

    def cell(self, state: dict[str, Tensor], u: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        out = recurrence(kernel, {"wx": self.W(u), "W": self.U, "N": self.U_n, "h0": state["h"]}, self.constants)
        return out["y"], {"h": out["h_last"]}
