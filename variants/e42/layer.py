"""The E42 layer: input projection, silu, tied linear recurrence with self-gated readout, output projection."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elmanctl.ops import recurrence
from elmanctl.rules import inner_width
from elmanctl.spectral import SpectralNorm

from .binding import constants, kernel

RHO = 0.999  # largest singular value of W: the state must not grow, since nothing bounds it
GAIN = 0.1  # of W's Xavier initialisation; without effect under spectral normalisation


class Layer(nn.Module):
    """y = W_out cell(silu(W_in x)), with [B, T, dim] in and out; state {"h": [B, inner]} in fp32, zero at first.

    Source: README.md, equations 1 to 3.
    """

    no_decay = frozenset()

    def __init__(self, dim: int, config):
        super().__init__()
        inner = inner_width(dim, config.expansion)
        self.inner, self.constants = inner, constants(config)
        self.W_in = nn.Linear(dim, inner, bias=False)
        self.W = nn.Parameter(torch.empty(inner, inner))
        self.b = nn.Parameter(torch.zeros(inner))
        self.W_out = nn.Linear(inner, dim, bias=False)
        nn.init.xavier_uniform_(self.W_in.weight)
        nn.init.xavier_uniform_(self.W, gain=GAIN)
        nn.init.xavier_uniform_(self.W_out.weight)
        self.norm = SpectralNorm(inner, RHO) if config.spectral_norm else None
        if self.norm is not None:
            self.norm.warm(self.W)

    def initial_state(self, batch: int, device, dtype=torch.float32) -> dict[str, Tensor]:
        """Return the zero state."""
        return {"h": torch.zeros(batch, self.inner, device=device, dtype=dtype)}

    def forward(self, x: Tensor, state: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Run over [B, T, dim] from `state`; return y [B, T, dim] and the state after the last step."""
        W = self.W if self.norm is None else self.norm(self.W)
        u = F.silu(self.W_in(x))
        state = state or self.initial_state(x.shape[0], x.device, W.dtype)
        inputs = {"wx": F.linear(u, W, self.b), "W": W, "h0": state["h"]}
        out = recurrence(kernel, inputs, self.constants)
        return self.W_out(out["y"]), {"h": out["h_last"]}
