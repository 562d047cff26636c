"""The E73 layer: queries, keys, values and modulations around the tanh matrix state."""

import torch
from torch import Tensor, nn

from elmanctl.families.matrix_layer import MatrixLayer

from .binding import constants, kernel


class Layer(MatrixLayer):
    """Source: README.md, equations 1 to 5."""

    kernel, vectors = kernel, 4

    def make_cell(self, inner: int, config) -> None:
        super().make_cell(inner, config)
        self.bias = nn.Parameter(torch.ones(config.n_state))

    def constants_of(self, config) -> dict[str, int]:
        return constants(config)

    def inputs(self) -> dict[str, Tensor]:
        return {"bias": self.bias[None]}
