"""The E70 layer: keys and values from spectrally normalised matrices, one decay, around the linear matrix state."""

import torch
from torch import Tensor, nn

from elmanctl.families.matrix_layer import MatrixLayer
from elmanctl.spectral import SpectralNorm

from .binding import constants, kernel

RHO = 0.5
DECAY, LARGEST = 0.9, 0.999


class Layer(MatrixLayer):
    """Source: README.md, equations 1 to 4."""

    kernel, vectors = kernel, 3

    def make_cell(self, inner: int, config) -> None:
        super().make_cell(inner, config)
        first = torch.full((1,), DECAY)
        if config.decay == "trained":
            self.decay = nn.Parameter(first)
        else:
            self.register_buffer("decay", first)
        self.norms = nn.ModuleList()
        if config.spectral_norm:
            self.norms.extend(SpectralNorm(config.n_state, RHO) for _ in "kv")
            for norm, part in zip(self.norms, self.W.chunk(3)[1:], strict=True):
                norm.warm(part)

    def constants_of(self, config) -> dict[str, int]:
        return constants(config)

    def weight(self) -> Tensor:
        if not self.norms:
            return self.W
        W_q, *others = self.W.chunk(3)
        return torch.cat([W_q, *(norm(part) for norm, part in zip(self.norms, others, strict=True))])

    def inputs(self) -> dict[str, Tensor]:
        return {"decay": self.decay.clamp(0, LARGEST)}
