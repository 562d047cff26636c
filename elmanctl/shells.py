"""What surrounds a vector cell in a layer: projections in and out, an optional convolution, silu; and the cell's usual weights.

A variant's layer subclasses `Shell`, makes its cell's parameters in `make_cell` and runs it in `cell`; the file is then its difference only.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elmanctl.conv import CONV_WIDTH, causal_conv
from elmanctl.rules import inner_width
from elmanctl.spectral import SpectralNorm

GAIN = 0.1  # of a recurrent weight's Xavier initialisation; without effect under spectral normalisation


def linear(rows_in: int, rows_out: int, bias: bool = True) -> nn.Linear:
    """Return a map from `rows_in` to `rows_out` channels: Xavier-uniform weight, zero bias."""
    made = nn.Linear(rows_in, rows_out, bias=bias)
    nn.init.xavier_uniform_(made.weight)
    if bias:
        nn.init.zeros_(made.bias)
    return made


class RecurrentWeight(nn.Module):
    """A weight of the state, [d, d], Xavier-uniform times `gain`; called, it returns the weight that the recurrence uses.

    Args:
        d: width of the state.
        rho: largest singular value that spectral normalisation gives it (spectral.py); None for none.
    """

    def __init__(self, d: int, rho: float | None, gain: float = GAIN):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(d, d))
        nn.init.xavier_uniform_(self.weight, gain=gain)
        self.norm = None if rho is None else SpectralNorm(d, rho)
        if self.norm is not None:
            self.norm.warm(self.weight)

    def forward(self) -> Tensor:
        return self.weight if self.norm is None else self.norm(self.weight)


class CausalConv(nn.Module):
    """s[t, c] = sum over k = 0..3 of weight[c, k] u[t - 3 + k, c] + bias[c], with the last three steps carried from chunk to chunk."""

    def __init__(self, channels: int):
        super().__init__()
        bound = 1 / math.sqrt(CONV_WIDTH)
        self.weight = nn.Parameter(torch.empty(channels, CONV_WIDTH).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, u: Tensor, tail: Tensor, silu: bool = False) -> tuple[Tensor, Tensor]:
        """Return s, or silu(s), [B, T, C] and the new tail, from u [B, T, C] and the three steps before it, tail [B, 3, C]."""
        return causal_conv(u, tail, self.weight, self.bias, silu)


class Shell(nn.Module):
    """y = W_out cell(silu(conv(u)), z) with u, or [u, z] where `split`, = W_in x; [B, T, dim] in and out.

    z is a second branch, as wide as u, that neither convolution nor silu touches. With the option `conv` off there is no convolution, and
    where `activate` is off as well no silu either: silu follows a convolution always.

    State: what `cell_state` names ("h" [B, inner] by default) and, with `conv`, "conv" [B, 3, inner]; fp32 (fp64 in an fp64 model), zero at
    first.

    Args:
        dim: width of the model.
        config: the variant's Config; `expansion` and `conv` are read here.
    """

    split = False
    activate = True
    no_decay: frozenset[str] = frozenset()

    def __init__(self, dim: int, config):
        super().__init__()
        self.config, self.inner = config, inner_width(dim, config.expansion)
        self.W_in = linear(dim, (2 if self.split else 1) * self.inner, bias=False)
        self.conv = CausalConv(self.inner) if config.conv else None
        self.make_cell(self.inner, config)
        self.W_out = self.make_readout(dim, config)

    def make_readout(self, dim: int, config) -> nn.Linear:
        """Return the projection of the cell's output to the model's width."""
        return linear(self.inner, dim, bias=False)

    def make_cell(self, inner: int, config) -> None:
        """Make the cell's parameters."""
        raise NotImplementedError

    def cell(self, state: dict[str, Tensor], u: Tensor, *z: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the cell's output, what W_out takes, and its last state, from u [B, T, inner] and, where `split`, z of the same shape."""
        raise NotImplementedError

    def cell_state(self, batch: int) -> dict[str, tuple[int, ...]]:
        """Return the shape of each tensor of the cell's state."""
        return {"h": (batch, self.inner)}

    def initial_state(self, batch: int, device, dtype=torch.float32) -> dict[str, Tensor]:
        """Return the zero state."""
        shapes = self.cell_state(batch)
        if self.conv is not None:
            shapes = shapes | {"conv": (batch, CONV_WIDTH - 1, self.inner)}
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        return {name: torch.zeros(shape, device=device, dtype=wide) for name, shape in shapes.items()}

    def forward(self, x: Tensor, state: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Run over [B, T, dim] from `state`; return y [B, T, dim] and the state after the last step."""
        state = state or self.initial_state(x.shape[0], x.device, self.W_in.weight.dtype)
        u, *z = self.W_in(x).chunk(2, dim=-1) if self.split else (self.W_in(x),)
        last = {}
        if self.conv is not None:
            u, last["conv"] = self.conv(u, state["conv"], silu=True)
        elif self.activate:
            u = F.silu(u)
        y, new = self.cell(state, u, *z)
        return self.W_out(y), last | new
