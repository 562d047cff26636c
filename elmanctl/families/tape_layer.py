"""The layer of a variant with a tape: the cell itself, as wide as the model, without projections in and out."""

from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elmanctl.families.gated_layer import by_blocks
from elmanctl.ops import recurrence

GAIN = 0.9  # of the orthogonal W_h
TAPE_STD = 0.5  # of a learned first tape


class TapeLayer(nn.Module):
    """Map [B, T, dim] to [B, T, dim] through a state h and a tape of slots.

    State, in fp32 (fp64 in an fp64 model) and zero at first: "h" [B, dim], "tape" [B, N, dim] and, where the first tape is learned, "begun"
    [B]: a row reads tape + (1 - begun) M_0, and has begun, 1, after its first step. So a state of zeros begins at M_0 in every row, also in a
    batch whose other rows go on, and M_0 gets the gradient of the rows that begin.

    A subclass sets `binding`, its folder's module of that name.
    """

    binding: ModuleType

    def __init__(self, dim: int, config):
        super().__init__()
        self.slots, self.constants = config.slots, self.binding.constants(config)
        self.W_xz = nn.Parameter(torch.empty(2 * dim, dim))
        self.b = nn.Parameter(torch.zeros(dim))
        self.W = nn.Parameter(torch.empty(2 * dim, dim))  # W_h above W_w
        nn.init.xavier_uniform_(self.W_xz)
        by_blocks(self.W, 2, lambda i, block: nn.init.xavier_uniform_(block) if i else nn.init.orthogonal_(block, GAIN))
        # A state to begin with: decay would pull its slots together.
        self.no_decay = frozenset({"M_0"}) if config.tape == "learned" else frozenset()
        self.M_0 = nn.Parameter(torch.randn(self.slots, dim) * TAPE_STD) if config.tape == "learned" else None

    def gate(self) -> dict[str, Tensor]:
        """Return the kernel's further inputs."""
        return {}

    def initial_state(self, batch: int, device, dtype=torch.float32) -> dict[str, Tensor]:
        """Return the zero state."""
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        dim = self.b.shape[0]
        shapes = {"h": (batch, dim), "tape": (batch, self.slots, dim)} | (
            {} if self.M_0 is None else {"begun": (batch,)}
        )
        return {name: torch.zeros(shape, device=device, dtype=wide) for name, shape in shapes.items()}

    def forward(self, x: Tensor, state: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Run over [B, T, dim] from `state`; return y [B, T, dim] and the state after the last step."""
        state = state or self.initial_state(x.shape[0], x.device, self.b.dtype)
        xz, tape, last = F.linear(x, self.W_xz, F.pad(self.b, (0, self.b.shape[0]))), state["tape"], {}
        if self.M_0 is not None:
            tape = tape + (1 - state["begun"])[:, None, None] * self.M_0
            last["begun"] = torch.ones_like(state["begun"])
        inputs = {"xz": xz, "W": self.W, "h0": state["h"], "tape0": tape, **self.gate()}
        out = recurrence(self.binding.kernel, inputs, self.constants)
        return out["y"], {"h": out["h_last"], "tape": out["tape_last"], **last}
