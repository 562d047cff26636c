"""The layer around one matrix state: y = W_out cell(W h) with h = silu(W_in x), the raw vectors of a step from one product."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elmanctl.kernel import Kernel
from elmanctl.ops import recurrence
from elmanctl.shells import Shell, linear


class MatrixLayer(Shell):
    """Map [B, T, dim] to [B, T, dim] through one n_state x n_state matrix; a variant states its kernel and the parameters of its cell.

    State: `s` [B, 1, n_state, n_state] and, with `conv`, "conv" as in Shell.

    Subclasses set `kernel` and `vectors`, and define `constants_of`; `inputs` where the kernel has further ones.
    """

    kernel: Kernel
    vectors: int

    def make_cell(self, inner: int, config) -> None:
        n = config.n_state
        self.constants = self.constants_of(config)
        self.W = nn.Parameter(torch.empty(self.vectors * n, inner))
        # Xavier for each vector's own matrix, whose bound is larger than that of the fused one.
        bound = math.sqrt(6 / (inner + n))
        nn.init.uniform_(self.W, -bound, bound)

    def make_readout(self, dim: int, config) -> nn.Linear:
        return linear(config.n_state, dim, bias=False)

    def constants_of(self, config) -> dict[str, int]:
        """Return the kernel's compile-time constants."""
        raise NotImplementedError

    def inputs(self) -> dict[str, Tensor]:
        """Return the kernel's inputs besides the projection and the state."""
        return {}

    def weight(self) -> Tensor:
        """Return the projection's matrix as the recurrence uses it, [vectors n_state, inner]."""
        return self.W

    def cell_state(self, batch: int) -> dict[str, tuple[int, ...]]:
        n = self.config.n_state
        return {"s": (batch, 1, n, n)}

    def cell(self, state: dict[str, Tensor], u: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        given = {"projected": F.linear(u, self.weight()), **self.inputs(), "s0": state["s"]}
        out = recurrence(self.kernel, given, self.constants)
        return out["y"], {"s": out["s_last"]}
