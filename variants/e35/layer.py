"""The E35 layer: tanh recurrence, read out as its cube, in a single-branch shell."""

from torch import Tensor

from elmanctl.families.dense_layer import DenseLayer
from elmanctl.shells import linear

from . import binding


class Layer(DenseLayer):
    """Source: README.md, equations 1 to 3."""

    binding = binding
    rho = 0.99

    def make_cell(self, inner: int, config) -> None:
        self.W_x = linear(inner, inner)
        self.W_h = self.recurrent_weight(inner)

    def inputs(self, u: Tensor) -> dict[str, Tensor]:
        return {"wx": self.W_x(u), "W": self.W_h()}
