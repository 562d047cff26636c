"""The E56 layer: tanh recurrence with one weight over [input, state], in a split shell, gated by the second branch."""

import torch.nn.functional as F
from torch import Tensor

from elmanctl.families.dense_layer import DenseLayer
from elmanctl.norms import working_dtype
from elmanctl.projections import columns
from elmanctl.shells import linear

from . import binding


class Layer(DenseLayer):
    """Source: README.md, equations 1 and 2."""

    binding = binding
    split = True

    def make_cell(self, inner: int, config) -> None:
        self.W = linear(2 * inner, inner)

    def inputs(self, u: Tensor, z: Tensor) -> dict[str, Tensor]:
        W_u, W_h = columns(self.W.weight, 2, working_dtype(u))  # the kernel wants W_h without gaps
        return {"wx": F.linear(u, W_u, self.W.bias), "z": z, "W": W_h}
