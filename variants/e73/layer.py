"""The E73 layer: queries, keys, values and modulations around the tanh matrix state."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elmanctl import ops
from elmanctl.families.matrix_layer import MatrixLayer

from .binding import constants, kernel


class Layer(MatrixLayer):
    """Source: README.md, equations 1 to 5."""

    kernel, vectors = kernel, 4
    activate = False  # silu is taken with the projection, which makes it again in the backward pass; after a convolution by the shell

    def make_cell(self, inner: int, config) -> None:
        super().make_cell(inner, config)
        self.bias = nn.Parameter(torch.ones(config.n_state))

    def constants_of(self, config) -> dict[str, int]:
        return constants(config)

    def inputs(self) -> dict[str, Tensor]:
        return {"bias": self.bias[None]}

    def cell(self, state: dict[str, Tensor], u: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        projected = ops.project(u, self.W, silu=True)[0] if self.conv is None else F.linear(u, self.W)
        out = ops.recurrence(self.kernel, {"projected": projected, **self.inputs(), "s0": state["s"]}, self.constants)
        return out["y"], {"s": out["s_last"]}
