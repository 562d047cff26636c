"""The cudalstm layer: the cell between an input and an output projection, without silu or gate."""

from torch import Tensor, nn

from elmanctl.families.gated_layer import by_blocks, orthogonal, stacked
from elmanctl.ops import recurrence
from elmanctl.shells import Shell

from .binding import constants, kernel

STD = 0.02  # of the input weights
BIASES = (1, 0, 0, 0)  # of f, i, o and c: a forget gate that starts open lets gradients through time


class Layer(Shell):
    """Source: README.md, equations 1 to 3."""

    activate = False

    def __init__(self, dim: int, config):
        super().__init__(dim, config)
        by_blocks(self.W_in.weight, 1, lambda i, block: nn.init.normal_(block, std=STD))
        nn.init.zeros_(self.W_out.weight)

    def make_cell(self, inner: int, config) -> None:
        self.constants = constants(config)
        self.W = stacked(inner, BIASES)
        by_blocks(self.W.weight, 1, lambda i, block: nn.init.normal_(block, std=STD))
        self.U = orthogonal(inner, inner, 1, 1, 1, 1)

    def cell_state(self, batch: int) -> dict[str, tuple[int, ...]]:
        return {"h": (batch, self.inner), "s": (batch, self.inner)}

    def cell(self, state: dict[str, Tensor], u: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        out = recurrence(kernel, {"wx": self.W(u), "W": self.U, "h0": state["h"], "s0": state["s"]}, self.constants)
        return out["y"], {"h": out["h_last"], "s": out["s_last"]}
