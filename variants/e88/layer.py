"""The E88 layer: projections and output mixing in torch, the recurrence with all that is elementwise in the kernel."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elmanctl import ops
from elmanctl.conv import CONV_WIDTH, causal_conv
from elmanctl.head_norm import head_norm

from .binding import constants, kernel


class Layer(nn.Module):
    """Map [B, T, dim] to [B, T, dim] through H matrix states of n_v x n_state.

    State: `s` [B, H, n_v, n_state] and, with use_conv, `conv`: the projections of the last three steps.
    """

    def __init__(self, dim: int, config):
        super().__init__()
        self.config, self.constants = config, constants(config)
        H, N, M = config.n_heads, config.n_state, config.n_v
        widths = [H * N, H * N] if config.tie_kv else [H * N, H * N, H * M]
        self.W_qkv = nn.Parameter(torch.empty(sum(widths), dim))
        if config.use_conv:
            self.conv_weight = nn.Parameter(torch.empty(sum(widths), CONV_WIDTH))
        if config.decay in ("mamba", "simple"):
            self.W_decay = nn.Parameter(torch.empty(H, dim))
        if config.decay == "mamba":
            self.A_log = nn.Parameter(torch.empty(H))
            self.dt_bias = nn.Parameter(torch.empty(H))
        if config.decay == "constant":
            self.decay_bias = nn.Parameter(torch.empty(H))
        if config.use_write_gate:
            self.W_write = nn.Parameter(torch.empty(H, dim))
        if config.use_gate:
            self.W_gate = nn.Parameter(torch.empty(H * M, dim))
        if config.use_value_residual:
            self.value_scale = nn.Parameter(torch.empty(H, M))
        if config.use_output_norm:
            self.norm_weight = nn.Parameter(torch.empty(M))
        if config.head_mix == "weighted_sum":
            self.head_weight = nn.Parameter(torch.empty(H))
        if config.head_mix == "input_weighted":
            self.W_mix = nn.Parameter(torch.empty(H, dim))
        shape = {"concat": (dim, H * M), "per_head": (H, dim, M)}.get(config.head_mix, (dim, M))
        self.W_out = nn.Parameter(torch.empty(shape))
        # Weight decay would pull the decays to one fixed value and the skip connection to none.
        self.no_decay = {n for n in ("A_log", "dt_bias", "decay_bias", "value_scale") if hasattr(self, n)}
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise as README.md states."""
        dim = self.W_qkv.shape[1]
        # Tied projections are two matrices with their own bound; otherwise the bound is that of the whole fused matrix.
        parts = self.W_qkv.chunk(2) if self.config.tie_kv else (self.W_qkv,)
        heads = self.W_out if self.config.head_mix == "per_head" else (self.W_out,)
        for matrix in (*parts, *heads, *(getattr(self, n, None) for n in ("W_decay", "W_gate", "W_mix"))):
            if matrix is not None:
                nn.init.xavier_uniform_(matrix)
        if self.config.use_conv:
            bound = 1 / math.sqrt(CONV_WIDTH)
            self.conv_weight.uniform_(-bound, bound)
        if self.config.use_write_gate:
            self.W_write.uniform_(-1 / math.sqrt(dim), 1 / math.sqrt(dim))
        if self.config.decay == "mamba":
            self.A_log.uniform_(0, 16).clamp_(min=1e-4).log_()
            dt = self.dt_bias.uniform_(math.log(1e-3), math.log(1e-1)).exp_()
            dt.add_(torch.log(-torch.expm1(-dt)))
        for name, value in (("decay_bias", 4.0), ("value_scale", 1.0), ("norm_weight", 1.0)):
            if hasattr(self, name):
                getattr(self, name).fill_(value)
        if self.config.head_mix == "weighted_sum":
            self.head_weight.fill_(1 / self.config.n_heads)

    def initial_state(self, batch: int, device, dtype) -> dict[str, Tensor]:
        """Return zeros; states are fp32, or fp64 where the model is."""
        c = self.config
        options = {"device": device, "dtype": torch.float64 if dtype == torch.float64 else torch.float32}
        state = {"s": torch.zeros(batch, c.n_heads, c.n_v, c.n_state, **options)}
        if c.use_conv:
            state["conv"] = torch.zeros(batch, CONV_WIDTH - 1, self.W_qkv.shape[0], **options)
        return state

    def forward(self, x: Tensor, state: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Run a chunk of time; see the class for the shapes."""
        c, (B, T, _) = self.config, x.shape
        names = [n for n in ("W_qkv", "W_decay", "W_write", "W_gate") if hasattr(self, n)]
        projected = dict(zip(names, ops.project(x, *(getattr(self, n) for n in names)), strict=True))
        qkv, gate = projected["W_qkv"], projected.get("W_gate")
        if state is None:
            state = self.initial_state(B, x.device, self.W_qkv.dtype)
        last = {}
        if c.use_conv:
            qkv, last["conv"] = causal_conv(qkv, state["conv"], self.conv_weight)
        fused_gate = self.constants["GATE"] != 0
        out = ops.recurrence(
            kernel,
            {
                "qkv": qkv,
                "decay_logit": projected.get("W_decay"),
                "A_log": getattr(self, "A_log", None),
                "dt_bias": getattr(self, "dt_bias", None),
                "decay_bias": getattr(self, "decay_bias", None),
                "write_logit": projected.get("W_write"),
                "gate": gate if fused_gate else None,
                "s0": state["s"],
            },
            self.constants,
        )
        last["s"] = out["s_last"]
        y = self.read_out(out["y"].view(B, T, c.n_heads, c.n_v), qkv, None if fused_gate else gate)
        return self.mix(y, x), last

    def read_out(self, y: Tensor, qkv: Tensor, gate: Tensor | None) -> Tensor:
        """Apply what sits between readout and mixing and is not in the kernel, in the dtype of the weights. y: [B, T, H, n_v]."""
        c, dtype = self.config, y.dtype
        if not (c.use_value_residual or c.use_output_norm):
            return y
        if c.use_value_residual:
            y = y.to(self.W_out.dtype)
            start = (1 if c.tie_kv else 2) * c.n_heads * c.n_state
            v = qkv[..., start:].reshape(y.shape).to(y.dtype)
            y = y + self.value_scale * (F.silu(v) if c.use_silu else v)
        if c.use_output_norm:
            return head_norm(y, self.norm_weight, gate, c.gate_activation, dtype)
        if gate is not None:
            gate = gate.view(y.shape).to(y.dtype)
            y = y * (F.silu(gate) if c.gate_activation == "silu" else torch.sigmoid(gate))
        return y.to(dtype)

    def mix(self, y: Tensor, x: Tensor) -> Tensor:
        """Turn [B, T, H, n_v] into [B, T, dim]."""
        how = self.config.head_mix
        if how == "concat":
            return ops.project(y.flatten(2), self.W_out)[0]
        if how == "per_head":
            return F.linear(y.flatten(2), self.W_out.transpose(0, 1).flatten(1))
        if how == "weighted_sum":
            y = y * torch.softmax(self.head_weight, 0)[:, None].to(y.dtype)
        elif how == "input_weighted":
            y = y * torch.softmax(F.linear(x, self.W_mix), -1)[..., None].to(y.dtype)
        return F.linear(y.sum(2), self.W_out)
