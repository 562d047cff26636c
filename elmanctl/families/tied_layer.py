"""The layer of a variant on the tied family: one matrix for input and state, in a single-branch shell whose silu the kernel takes."""

import torch
from torch import Tensor, nn

from elmanctl.families.dense_layer import DenseLayer


class TiedLayer(DenseLayer):
    """A subclass sets `binding` and `rho`."""

    activate = False  # the kernel does, save after a convolution (families/tied.py, constants)

    def make_cell(self, inner: int, config) -> None:
        self.W = self.recurrent_weight(inner)
        self.b = nn.Parameter(torch.zeros(inner))

    def inputs(self, u: Tensor) -> dict[str, Tensor]:
        return {"u": u, "W": self.W(), "b": self.b}
