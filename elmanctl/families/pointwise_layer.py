"""The layer of the variants on the pointwise family: one product makes all projections that the kernel reads, side by side."""

from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elmanctl.ops import recurrence
from elmanctl.shells import Shell


class Projections(nn.Module):
    """Several maps of one input, their results side by side: [..., rows_in] to [..., count * rows_out], as one product.

    Each weight is Xavier-uniform by itself.

    Args:
        biases: the initial bias of each map; None for maps without.
        count: how many maps there are, where they have no bias.
    """

    def __init__(self, rows_in: int, rows_out: int, biases: tuple[float, ...] | None, count: int = 0):
        super().__init__()
        count = count or len(biases)
        self.weight = nn.Parameter(torch.empty(count * rows_out, rows_in))
        for part in self.weight.detach().chunk(count):
            nn.init.xavier_uniform_(part)
        self.bias = None
        if biases is not None:
            self.bias = nn.Parameter(torch.tensor(biases).repeat_interleave(rows_out))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class PointwiseLayer(Shell):
    """A shell around a pointwise cell. A variant's layer names its binding and biases, and makes its vectors.

    Class attributes:
        binding: the variant's binding.py.
        biases: the initial bias of each projection, in the order in which the kernel reads them.
    """

    binding: ModuleType
    biases: tuple[float, ...]

    def make_vectors(self, inner: int, config) -> None:
        """Make the parameters behind the vectors, where there are any."""

    def vectors(self) -> dict[str, Tensor]:
        """Return the kernel's vectors by name, [inner] each."""
        return {}

    def make_cell(self, inner: int, config) -> None:
        self.constants = self.binding.constants(config)
        self.W = Projections(inner, inner, self.biases)
        self.make_vectors(inner, config)

    def cell(self, state: dict[str, Tensor], u: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        inputs = {"proj": self.W(u), **self.vectors(), "h0": state["h"]}
        out = recurrence(self.binding.kernel, inputs, self.constants)
        return out["y"], {"h": out["h_last"]}
