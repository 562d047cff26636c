"""The E2 layer: slots of recurrences in a split shell; their sum is gated by the second branch. Tanh slots are rows of one batch, linear ones channels."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elmanctl.ops import recurrence
from elmanctl.shells import RecurrentWeight, Shell

from .binding import constants, kernel

RHO = 0.99  # largest singular value of each W_h
DECAY, DRIVE = 0.9, 0.02  # first decay, and standard deviation of the input weights, of diagonal slots


class Layer(Shell):
    """Source: README.md, equations 1 to 4. Rows of the recurrence are slot-major: slot s of sequence b is row s B + b."""

    split = True

    def make_cell(self, inner: int, config) -> None:
        self.slots, self.constants = config.slots, constants(config)
        self.no_decay = frozenset({"decay" if config.diagonal else "b"})  # logits or a bias, though of two dimensions
        self.C = nn.Parameter(torch.full((self.slots,), 1 / self.slots))
        if config.diagonal:
            self.decay = nn.Parameter(torch.full((self.slots, inner), math.log(DECAY / (1 - DECAY))))
            self.drive = nn.Parameter(torch.randn(self.slots, inner) * DRIVE)
            return
        self.W_x = nn.Parameter(torch.empty(self.slots, inner, inner))
        for W in self.W_x.detach():
            nn.init.xavier_uniform_(W)
        self.b = nn.Parameter(torch.zeros(self.slots, inner))
        weights = self.slots if config.independent else 1
        rho = RHO if config.spectral_norm else None
        self.W_h = nn.ModuleList(RecurrentWeight(inner, rho) for _ in range(weights))

    def cell_state(self, batch: int) -> dict[str, tuple[int, ...]]:
        return {"h": (batch, self.slots, self.inner)}

    def cell(self, state: dict[str, Tensor], u: Tensor, z: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        run = self.diagonal if self.config.diagonal else self.dense
        y, last = run(state["h"], u)
        return y * F.silu(z), {"h": last}

    def diagonal(self, h: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return the slots' sum [B, T, inner] and their last states."""
        inputs = {
            "wx": (u[:, :, None] * self.drive).flatten(2),
            "decay": torch.sigmoid(self.decay).flatten(),
            "h0": h.flatten(1),
        }
        y, h_last = recurrence(kernel, inputs, self.constants).values()
        return torch.einsum("btsd,s->btd", y.unflatten(-1, (self.slots, -1)), self.C), h_last.view_as(h)

    def dense(self, h: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return the slots' sum [B, T, inner] and their last states."""
        B, T, d = u.shape
        wx = torch.baddbmm(self.b[:, None], u.flatten(0, 1).expand(self.slots, -1, -1), self.W_x.mT).view(-1, T, d)
        h0 = h.transpose(0, 1).flatten(0, 1)
        calls = zip(wx.chunk(len(self.W_h)), h0.chunk(len(self.W_h)), self.W_h, strict=True)
        outs = [recurrence(kernel, {"wx": x, "W": W(), "h0": first}, self.constants) for x, first, W in calls]
        y, h_last = outs[0].values() if len(outs) == 1 else (torch.cat([o[n] for o in outs]) for n in ("y", "h_last"))
        return (self.C @ y.view(self.slots, -1)).view(B, T, d), h_last.view(self.slots, B, d).transpose(
            0, 1
        ).contiguous()
