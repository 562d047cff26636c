"""The E79 layer: queries, two keys, values and, where they are projected, the gates' biases around two coupled matrix states."""

import torch
from torch import Tensor, nn

from elmanctl.families.matrix_layer import MatrixLayer
from elmanctl.ops import recurrence

from .binding import PARAMETERS, constants, kernel

FIRST = {"s_bias": 2.0, "m_bias": 2.5}


class Layer(MatrixLayer):
    """Source: README.md, equations 1 to 6. State: `s` and `m`, both [B, 1, n_state, n_state]."""

    kernel = kernel

    def make_cell(self, inner: int, config) -> None:
        self.vectors = constants(config)["VECTORS"]
        super().make_cell(inner, config)
        if config.bias == "learned":
            for name, value in FIRST.items():
                self.register_parameter(name, nn.Parameter(torch.full((config.n_state,), value)))

    def constants_of(self, config) -> dict[str, int]:
        return constants(config)

    def inputs(self) -> dict[str, Tensor | None]:
        learned = self.config.bias == "learned"
        return {name: getattr(self, name)[None] if learned else None for name in PARAMETERS}

    def cell_state(self, batch: int) -> dict[str, tuple[int, ...]]:
        n = self.config.n_state
        return {"s": (batch, 1, n, n), "m": (batch, 1, n, n)}

    def cell(self, state: dict[str, Tensor], u: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        given = {"projected": nn.functional.linear(u, self.W), **self.inputs(), "s0": state["s"], "m0": state["m"]}
        out = recurrence(self.kernel, given, self.constants)
        return out["y"], {"s": out["s_last"], "m": out["m_last"]}
