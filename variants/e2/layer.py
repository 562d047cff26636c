"""The E2 layer: slots of tanh recurrences as rows of one batch, in a split shell; their sum is gated by the second branch."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elmanctl.ops import recurrence
from elmanctl.shells import RecurrentWeight, Shell

from .binding import constants, kernel

RHO = 0.99  # largest singular value of each W_h


class Layer(Shell):
    """Source: README.md, equations 1 to 4. Rows of the recurrence are slot-major: slot s of sequence b is row s B + b."""

    split = True
    no_decay = frozenset({"b"})  # a bias, though of two dimensions

    def make_cell(self, inner: int, config) -> None:
        self.slots, self.constants = config.slots, constants(config)
        self.W_x = nn.Parameter(torch.empty(self.slots, inner, inner))
        for W in self.W_x.detach():
            nn.init.xavier_uniform_(W)
        self.b = nn.Parameter(torch.zeros(self.slots, inner))
        weights = self.slots if config.independent else 1
        rho = RHO if config.spectral_norm else None
        self.W_h = nn.ModuleList(RecurrentWeight(inner, rho) for _ in range(weights))
        self.C = nn.Parameter(torch.full((self.slots,), 1 / self.slots))

    def cell_state(self, batch: int) -> dict[str, tuple[int, ...]]:
        return {"h": (batch, self.slots, self.inner)}

    def cell(self, state: dict[str, Tensor], u: Tensor, z: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        B, T, d = u.shape
        wx = torch.baddbmm(self.b[:, None], u.flatten(0, 1).expand(self.slots, -1, -1), self.W_x.mT).view(-1, T, d)
        h0 = state["h"].transpose(0, 1).flatten(0, 1)
        calls = zip(wx.chunk(len(self.W_h)), h0.chunk(len(self.W_h)), self.W_h, strict=True)
        outs = [recurrence(kernel, {"wx": x, "W": W(), "h0": h}, self.constants) for x, h, W in calls]
        y, h_last = outs[0].values() if len(outs) == 1 else (torch.cat([o[n] for o in outs]) for n in ("y", "h_last"))
        y = (self.C @ y.view(self.slots, -1)).view(B, T, d) * F.silu(z)
        return y, {"h": h_last.view(self.slots, B, d).transpose(0, 1).contiguous()}
