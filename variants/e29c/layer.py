"""The E29c layer."""

import torch
from torch import Tensor, nn

from elmanctl.families.tape_layer import TapeLayer

from . import binding

FIRST = 0.1  # value of g_z, g_r and g_h; at 1, as once published, training met NaN near step 100


class Layer(TapeLayer):
    """Source: README.md, equations 1 to 7."""

    binding = binding

    def __init__(self, dim: int, config):
        super().__init__(dim, config)
        self.no_decay |= {"g"}  # vectors, though of two dimensions
        self.g = nn.Parameter(torch.tensor([FIRST, FIRST, FIRST, 0.0])[:, None].repeat(1, dim))  # g_z, g_r, g_h, b_g

    def gate(self) -> dict[str, Tensor]:
        return {"gate": self.g}
