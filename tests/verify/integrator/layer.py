"""The integrator's layer."""

import torch
from torch import nn

from elmanctl.ops import recurrence

from .binding import constants, kernel


class Layer(nn.Module):
    """y = W cell(x)."""

    no_decay = frozenset({"a"})

    def __init__(self, dim, config):
        super().__init__()
        self.constants = constants(config)
        self.a = nn.Parameter(torch.full((dim,), 0.5))
        self.out = nn.Linear(dim, dim, bias=False)

    def initial_state(self, batch, device, dtype):
        return {"h": torch.zeros(batch, len(self.a), device=device, dtype=dtype)}

    def forward(self, x, state=None):
        state = state or self.initial_state(x.shape[0], x.device, self.a.dtype)
        out = recurrence(kernel, {"x": x, "a": self.a, "h0": state["h"]}, self.constants)
        return self.out(out["y"]), {"h": out["h_last"]}
