"""Parameters that the layers on the gated family share: input projections of all gates in one product, recurrent weights by blocks and of low rank."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elmanctl.spectral import FactoredNorm
from elmanctl.tiles import TILE


def by_blocks(weight: Tensor, count: int, fill: Callable[[int, Tensor], object]) -> None:
    """Call fill(i, block) on each of `count` equal blocks of rows; not on the meta device, which has no numbers to draw."""
    if not weight.is_meta:
        for i, block in enumerate(weight.detach().chunk(count)):
            fill(i, block)


def stacked(inner: int, biases: Sequence[float]) -> nn.Linear:
    """Return the input projections of several pre-activations as one map, [B, T, inner] to [B, T, len(biases) inner].

    Args:
        inner: width of the cell.
        biases: first value of each pre-activation's bias. Weights are Xavier-uniform, block by block.
    """
    made = nn.Linear(inner, len(biases) * inner)
    by_blocks(made.weight, len(biases), lambda i, block: nn.init.xavier_uniform_(block))
    by_blocks(made.bias, len(biases), lambda i, block: nn.init.constant_(block, biases[i]))
    return made


def orthogonal(rows: int, columns: int, *gains: float) -> nn.Parameter:
    """Return len(gains) blocks of [rows, columns], each orthogonal (rows or columns orthonormal) times its gain, one above the other."""
    made = nn.Parameter(torch.empty(len(gains) * rows, columns))
    by_blocks(made, len(gains), lambda i, block: nn.init.orthogonal_(block, gain=gains[i]))
    return made


class FactoredWeight(nn.Module):
    """A recurrent weight of low rank, U V; called, it returns the factors that the recurrence uses.

    They are padded with zeros to the kernel's tile, which leaves the product as it is.

    Args:
        d: width of the state.
        rank: columns of U [d, rank] and rows of V [rank, d].
        gain: of both orthogonal initial values.
        rho: largest singular value that spectral normalisation gives U V; None for none.
    """

    def __init__(self, d: int, rank: int, gain: float, rho: float | None = None):
        super().__init__()
        self.U, self.V = orthogonal(d, rank, gain), orthogonal(rank, d, gain)
        self.norm = None if rho is None else FactoredNorm(d, rho)
        if self.norm is not None:
            self.norm.warm(self.U, self.V)

    def forward(self) -> dict[str, Tensor]:
        """Return U [d, R] and V [R, d] by name, R the rank rounded up to a multiple of 16."""
        U, V = (self.U, self.V) if self.norm is None else self.norm(self.U, self.V)
        missing = -U.shape[1] % TILE
        return {"U": F.pad(U, (0, missing)), "V": F.pad(V, (0, 0, 0, missing))} if missing else {"U": U, "V": V}
