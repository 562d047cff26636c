"""The E75 layer: projections in torch, the recurrence with norm, gates and readout in the kernel."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elmanctl import ops

from .binding import constants, kernel


class Layer(nn.Module):
    """Map [B, T, dim] to [B, T, dim] through H matrix states of n_state x n_state; state: `s` [B, H, n_state, n_state]."""

    no_decay = frozenset({"beta_bias"})

    def __init__(self, dim: int, config):
        super().__init__()
        self.config, self.constants = config, constants(config)
        H, N, inner = config.n_heads, config.n_state, config.inner_dim(dim)
        self.W_in = nn.Parameter(torch.empty(inner, dim))
        self.W_qkvb = nn.Parameter(torch.empty(4 * H * N, inner))
        self.beta_bias = nn.Parameter(torch.empty(H, N))
        self.W_out = nn.Parameter(torch.empty(dim, H * N))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Xavier for the two outer matrices; for the inner one Xavier of each head's n x d slice; forget gates near 0.88."""
        nn.init.xavier_uniform_(self.W_in)
        nn.init.xavier_uniform_(self.W_out)
        bound = math.sqrt(6 / (self.W_qkvb.shape[1] + self.config.n_state))
        self.W_qkvb.uniform_(-bound, bound)
        self.beta_bias.fill_(2.0)

    def initial_state(self, batch: int, device, dtype) -> dict[str, Tensor]:
        """Return zeros; the state is fp32, or fp64 where the model is."""
        H, N = self.beta_bias.shape
        dtype = torch.float64 if dtype == torch.float64 else torch.float32
        return {"s": torch.zeros(batch, H, N, N, device=device, dtype=dtype)}

    def forward(self, x: Tensor, state: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Run a chunk of time from `state`, or from zeros."""
        if state is None:
            state = self.initial_state(x.shape[0], x.device, self.W_in.dtype)
        qkvb = F.linear(F.silu(F.linear(x, self.W_in)), self.W_qkvb)
        out = ops.recurrence(kernel, {"qkvb": qkvb, "beta_bias": self.beta_bias, "s0": state["s"]}, self.constants)
        return F.linear(out["y"], self.W_out), {"s": out["s_last"]}
