"""The E71 layer: queries, keys, values and retention logits around the linear matrix state."""

import torch
from torch import Tensor, nn

from elmanctl.families.matrix_layer import MatrixLayer

from .binding import constants, kernel


class Layer(MatrixLayer):
    """Source: README.md, equations 1 to 5."""

    kernel, vectors = kernel, 4

    def make_cell(self, inner: int, config) -> None:
        super().make_cell(inner, config)
        self.memory = nn.Parameter(torch.full((config.n_state,), 0.1))
        self.bias = nn.Parameter(torch.full((config.n_state,), 2.0))

    def constants_of(self, config) -> dict[str, int]:
        return constants(config)

    def inputs(self) -> dict[str, Tensor]:
        return {"memory": self.memory[None], "bias": self.bias[None]}
