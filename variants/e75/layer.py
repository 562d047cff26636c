"""The E75 layer: projections and convolutions in torch, the recurrence with norm, gates and readout in the kernel."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elmanctl import ops
from elmanctl.rules import inner_width
from elmanctl.shells import CONV_WIDTH, CausalConv

from .binding import constants, kernel


class Layer(nn.Module):
    """Map [B, T, dim] to [B, T, dim] through H matrix states of n_state x n_state.

    State: `s` [B, H, n_state, n_state] and, with a convolution, `conv`: its last three inputs.
    """

    def __init__(self, dim: int, config):
        super().__init__()
        self.config, self.constants = config, constants(config)
        H, N = config.n_heads, config.n_state
        inner = dim if config.post_conv else inner_width(dim, config.expansion)
        if not config.post_conv:
            self.W_in = nn.Parameter(torch.empty(inner, dim))
        if config.conv or config.post_conv:
            self.conv = CausalConv(3 * H * N if config.post_conv else inner)
        self.W_qkvb = nn.Parameter(torch.empty(4 * H * N, inner))
        self.beta_bias = nn.Parameter(torch.empty(H, N))
        self.A_log = nn.Parameter(torch.empty(H, N)) if config.decay == "log_space" else None
        self.W_out = nn.Parameter(torch.empty(dim, H * N))
        # Weight decay would pull the forget gates to one fixed value.
        self.no_decay = {"beta_bias"} if self.A_log is None else {"beta_bias", "A_log"}
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise as README.md states."""
        if not self.config.post_conv:
            nn.init.xavier_uniform_(self.W_in)
        nn.init.xavier_uniform_(self.W_out)
        bound = math.sqrt(6 / (self.W_qkvb.shape[1] + self.config.n_state))
        self.W_qkvb.uniform_(-bound, bound)
        if self.config.post_conv:
            bound = 1 / math.sqrt(CONV_WIDTH)
            self.conv.bias.uniform_(-bound, bound)
        if self.A_log is None:
            self.beta_bias.fill_(2.0)
            return
        self.A_log.uniform_(1, 16).log_()
        dt = self.beta_bias.uniform_(math.log(1e-3), math.log(1e-1)).exp_()
        dt.add_(torch.log(-torch.expm1(-dt)))

    def initial_state(self, batch: int, device, dtype) -> dict[str, Tensor]:
        """Return zeros; states are fp32, or fp64 where the model is."""
        H, N = self.beta_bias.shape
        options = {"device": device, "dtype": torch.float64 if dtype == torch.float64 else torch.float32}
        state = {"s": torch.zeros(batch, H, N, N, **options)}
        if self.config.conv or self.config.post_conv:
            state["conv"] = torch.zeros(batch, CONV_WIDTH - 1, self.conv.bias.shape[0], **options)
        return state

    def forward(self, x: Tensor, state: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Run a chunk of time from `state`, or from zeros."""
        if state is None:
            state = self.initial_state(x.shape[0], x.device, self.W_out.dtype)
        raw, last = self.raw(x, state)
        given = {"qkvb": raw, "beta_bias": self.beta_bias, "A_log": self.A_log, "s0": state["s"]}
        out = ops.recurrence(kernel, given, self.constants)
        return F.linear(out["y"], self.W_out), last | {"s": out["s_last"]}

    def raw(self, x: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return q, k, v and the gates' logits of all heads, [B, T, 4 H n_state], and the convolution's new tail."""
        last = {}
        if self.config.post_conv:
            logits = self.beta_bias.numel()
            qkv, logit = F.linear(x, self.W_qkvb).split([3 * logits, logits], -1)
            qkv, last["conv"] = self.conv(qkv, state["conv"], silu=True)
            return torch.cat([qkv, logit], -1), last
        u = F.linear(x, self.W_in)
        if self.config.conv:
            u, last["conv"] = self.conv(u, state["conv"], silu=True)
        else:
            u = F.silu(u)
        return F.linear(u, self.W_qkvb), last
