"""The E72 layer: queries, keys, values and retention logits around the linear matrix state."""

import torch
from torch import Tensor, nn

from elmanctl.families.matrix_layer import MatrixLayer

from .binding import PARAMETERS, constants, kernel

FIRST = {"retain_bias": 2.0, "memory": 0.5, "value_bias": 0.0}


class Layer(MatrixLayer):
    """Source: README.md, equations 1 to 6."""

    kernel, vectors = kernel, 4

    def make_cell(self, inner: int, config) -> None:
        super().make_cell(inner, config)
        for name, value in FIRST.items():
            self.register_parameter(name, nn.Parameter(torch.full((config.n_state,), value)))

    def constants_of(self, config) -> dict[str, int]:
        return constants(config)

    def inputs(self) -> dict[str, Tensor]:
        return {name: getattr(self, name)[None] for name in PARAMETERS}
