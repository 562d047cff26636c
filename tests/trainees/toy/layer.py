"""The layer of the Toy variant: y = W_out silu(h), h[t] = sigmoid(decay) h[t-1] + W_in x[t]."""

import time

import torch
import torch.nn.functional as F
from torch import nn


class Cell(nn.Module):
    def forward(self, u, h, decay, infinite):
        out = []
        for t in range(u.shape[1]):
            h = torch.sigmoid(decay) * h + u[:, t]
            out.append(h)
        y = torch.stack(out, 1)
        return (y * float("inf") if infinite else y), h


class Layer(nn.Module):
    no_decay = frozenset({"decay"})

    def __init__(self, dim, config):
        super().__init__()
        self.config = config
        self.win, self.wout = nn.Linear(dim, dim), nn.Linear(dim, dim, bias=False)
        self.decay = nn.Parameter(torch.zeros(1, dim))
        self.cell = Cell()
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def initial_state(self, batch, device, dtype):
        return {"h": torch.zeros(batch, self.win.out_features, device=device, dtype=dtype)}

    def forward(self, x, state=None):
        if self.config.seconds:
            time.sleep(self.config.seconds)
        self.calls += 1
        broken = self.config.break_at and int(self.calls) >= self.config.break_at
        h = (state or self.initial_state(len(x), x.device, torch.float32))["h"]
        y, h = self.cell(self.win(x), h, self.decay, broken)
        y = F.dropout(self.wout(F.silu(y)), self.config.dropout, self.training) + self.config.gain * x
        return y, {"h": h}
