"""The two sub-layers of a prenorm transformer; the model around them supplies the norms and the residual adds.

* Attention carries its keys and values as state, so that a sequence may be fed in pieces; they grow with every piece.
* Angles of the rotary embedding are computed in float32 at each call: no table to move, resize or leave on the meta device.
"""

import torch
import torch.nn.functional as F
from torch import nn

HEAD = 64
THETA = 1e4
FEED_FORWARD_STEP = 256


class Attention(nn.Module):
    """Causal softmax attention over heads of 64 with rotary positions, [B, T, dim] in and out.

    Args:
        dim: model width; there are max(1, dim // 64) heads.
        config: the variant's Config.
    """

    no_decay: frozenset[str] = frozenset()

    def __init__(self, dim: int, config):
        super().__init__()
        self.heads = max(1, dim // HEAD)
        self.qkv = nn.Linear(dim, 3 * self.heads * HEAD, bias=False)
        self.out_proj = nn.Linear(self.heads * HEAD, dim, bias=False)
        # One matrix holds three: each is drawn with its own fan-out.
        for part in self.qkv.weight.detach().chunk(3):
            nn.init.xavier_uniform_(part)
        nn.init.xavier_uniform_(self.out_proj.weight)

    def initial_state(self, batch: int, device, dtype) -> dict[str, torch.Tensor]:
        """Return an empty cache: `k` (rotated) and `v`, [B, 0, heads, 64]."""
        return {key: torch.zeros(batch, 0, self.heads, HEAD, device=device, dtype=dtype) for key in ("k", "v")}

    def forward(self, x: torch.Tensor, state: dict | None = None) -> tuple[torch.Tensor, dict]:
        """Attend to this piece and to all pieces before it.

        Args:
            x: [B, T, dim].
            state: `k` and `v` of the P earlier positions, [B, P, heads, 64]; None stands for P = 0.
        Returns:
            y [B, T, dim], and `k` and `v` of all P + T positions.
        """
        qk, v = self.qkv(x).unflatten(-1, (3, self.heads, HEAD)).tensor_split((2,), dim=2)
        past = 0 if state is None else state["k"].shape[1]
        (q, k), v = rotate(qk, past).unbind(2), v.squeeze(2)
        if past:
            k, v = torch.cat([state["k"].to(k), k], dim=1), torch.cat([state["v"].to(v), v], dim=1)
        mask = allowed(x.shape[1], past, x.device) if past else None
        y = F.scaled_dot_product_attention(*(a.transpose(1, 2) for a in (q, k, v)), attn_mask=mask, is_causal=not past)
        return self.out_proj(y.transpose(1, 2).flatten(2)), {"k": k, "v": v}


class FeedForward(nn.Module):
    """W_3 (silu(W_1 x) * W_2 x), [B, T, dim] in and out, without state.

    Args:
        dim: model width; the hidden width is 8/3 of it, rounded up to a multiple of 256.
        config: the variant's Config.
    """

    no_decay: frozenset[str] = frozenset()

    def __init__(self, dim: int, config):
        super().__init__()
        hidden = -(-(8 * dim // 3) // FEED_FORWARD_STEP) * FEED_FORWARD_STEP
        self.up = nn.Linear(dim, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, dim, bias=False)
        for part in self.up.weight.detach().chunk(2):
            nn.init.xavier_uniform_(part)
        nn.init.xavier_uniform_(self.down.weight)

    def initial_state(self, batch: int, device, dtype) -> dict[str, torch.Tensor]:
        """Return the empty state: positions do not meet in this sub-layer."""
        return {}

    def forward(self, x: torch.Tensor, state: dict | None = None) -> tuple[torch.Tensor, dict]:
        """Run the sub-layer on x [B, T, dim]; the state passes through empty."""
        gate, value = self.up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * value), {}


def rotate(x: torch.Tensor, first: int) -> torch.Tensor:
    """Rotate each pair of neighbouring channels by position * THETA^(-2i/64), as one complex product.

    Args:
        x: queries and keys, [B, T, 2, heads, 64].
        first: position of x[:, 0].
    Returns:
        the rotated tensor in the shape and dtype of x.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    frequency = THETA ** (torch.arange(0, HEAD, 2, device=x.device, dtype=wide) / -HEAD)
    position = torch.arange(first, first + x.shape[1], device=x.device, dtype=wide)
    angle = position[:, None, None, None] * frequency
    pairs = torch.view_as_complex(x.to(wide).unflatten(-1, (HEAD // 2, 2)).contiguous())
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angle), angle)).flatten(-2).to(x.dtype)


def allowed(length: int, past: int, device) -> torch.Tensor:
    """Return the causal mask [T, P + T] (True: may attend) for T queries that follow P earlier keys."""
    return torch.ones(length, past + length, dtype=torch.bool, device=device).tril(past)
