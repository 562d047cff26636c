"""The Blank layer: project in, run the recurrence, project out."""

import torch
import torch.nn.functional as F
from torch import nn

from elmanctl.ops import recurrence

from .binding import constants, kernel


class Layer(nn.Module):
    """y = W_out h with h the recurrence over W_in x; [B, T, dim] in and out.

    Args:
        dim: model width, and number of channels.
        config: the variant's Config.
    """

    no_decay: frozenset[str] = frozenset()

    def __init__(self, dim: int, config):
        super().__init__()
        self.constants = constants(config)
        self.W_in = nn.Parameter(torch.empty(dim, dim))
        self.W_out = nn.Parameter(torch.empty(dim, dim))
        self.a = nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the parameters: matrices N(0, 0.02), recurrent weights evenly from 0 to 0.98."""
        nn.init.normal_(self.W_in, std=0.02)
        nn.init.normal_(self.W_out, std=0.02)
        with torch.no_grad():
            self.a.copy_(torch.linspace(0.0, 0.98, self.a.numel()))

    def initial_state(self, batch: int, device, dtype) -> dict[str, torch.Tensor]:
        """Return the zero state: `h` [B, dim]."""
        return {"h": torch.zeros(batch, self.a.numel(), device=device, dtype=dtype)}

    def forward(self, x: torch.Tensor, state: dict | None = None) -> tuple[torch.Tensor, dict]:
        """Run the layer.

        Args:
            x: [B, T, dim].
            state: `h` [B, dim] before the first step; None stands for zero.
        Returns:
            y [B, T, dim], and the state after the last step.
        """
        if state is None:
            state = self.initial_state(x.shape[0], x.device, self.a.dtype)
        inputs = {"x": F.linear(x, self.W_in), "a": self.a, "h0": state["h"]}
        result = recurrence(kernel, inputs, self.constants)
        return F.linear(result["y"], self.W_out), {"h": result["h_last"]}
