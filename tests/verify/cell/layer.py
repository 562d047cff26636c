"""The cell's layer."""

import torch
from torch import nn

from elmanctl.ops import recurrence

from .binding import constants, kernel


class Layer(nn.Module):
    """y = W_out cell(W_x x, sigmoid(W_decay x), W_gate x)."""

    no_decay = frozenset()

    def __init__(self, dim, config):
        super().__init__()
        self.constants, self.heads, self.n = constants(config), dim // config.n, config.n
        self.gate = nn.Linear(dim, dim, bias=False)
        self.decay = nn.Linear(dim, self.heads)
        self.W = nn.Parameter(0.2 * torch.randn(self.heads, config.n, config.n))
        self.out = nn.Linear(dim, dim, bias=False)

    def initial_state(self, batch, device, dtype):
        return {"s": torch.zeros(batch, self.heads, self.n, device=device, dtype=dtype)}

    def forward(self, x, state=None):
        state = state or self.initial_state(x.shape[0], x.device, self.W.dtype)
        heads = (*x.shape[:2], self.heads, self.n)
        given = {"x": x.view(heads), "decay": torch.sigmoid(self.decay(x)), "gate": self.gate(x).view(heads)}
        out = recurrence(kernel, {**given, "W": self.W, "s0": state["s"]}, self.constants)
        return self.out(out["y"].flatten(2)), {"s": out["s_last"]}
