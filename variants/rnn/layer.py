"""The RNN layer: project in, run the tanh cell over time, project out.

Under autocast the cell runs in the autocast dtype, its weights cast at each step (elmanctl/cudnn.py says why).
"""

import torch
from torch import nn

from elmanctl.cudnn import cell_weights


class Layer(nn.Module):
    """y = W_out RNN(W_in x), with [B, T, dim] in and out and a cell of width dim * expansion.

    Args:
        dim: model width.
        config: the variant's Config.
    """

    no_decay: frozenset[str] = frozenset()

    def __init__(self, dim: int, config):
        super().__init__()
        inner = dim * config.expansion
        self.in_proj = nn.Linear(dim, inner, bias=False)
        self.cell = nn.RNN(inner, inner, batch_first=True)
        self.out_proj = nn.Linear(inner, dim, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the parameters: input weights N(0, 0.02), the recurrent weight orthogonal, biases and W_out zero."""
        if self.in_proj.weight.is_meta:
            return  # without numbers to draw, normal_ costs seconds: it loads torch's compiler
        nn.init.normal_(self.in_proj.weight, std=0.02)
        nn.init.normal_(self.cell.weight_ih_l0, std=0.02)
        nn.init.orthogonal_(self.cell.weight_hh_l0)
        nn.init.zeros_(self.cell.bias_ih_l0)
        nn.init.zeros_(self.cell.bias_hh_l0)
        nn.init.zeros_(self.out_proj.weight)

    def initial_state(self, batch: int, device, dtype) -> dict[str, torch.Tensor]:
        """Return the zero state: `h` [B, inner]."""
        return {"h": torch.zeros(batch, self.cell.hidden_size, device=device, dtype=dtype)}

    def forward(self, x: torch.Tensor, state: dict | None = None) -> tuple[torch.Tensor, dict]:
        """Run the layer.

        Args:
            x: [B, T, dim].
            state: `h` [B, inner] before the first step; None stands for zero.
        Returns:
            y [B, T, dim], and the state after the last step in float32 (float64 for float64 inputs).
        Raises:
            UserError: for bfloat16 on a GPU whose cuDNN cannot run the cell in it.
        """
        u = self.in_proj(x)
        if state is None:
            state = self.initial_state(x.shape[0], x.device, u.dtype)
        h0 = state["h"].to(u.dtype)[None]
        with torch.autocast(x.device.type, enabled=False):
            # cuDNN keeps what its backward needs only in training mode; there is no dropout that the mode would turn on.
            h, last = torch.rnn_tanh(
                u, h0, cell_weights(self.cell, u), True, 1, 0.0, torch.is_grad_enabled(), False, True
            )
        return self.out_proj(h), {"h": last[0].to(torch.promote_types(last.dtype, torch.float32))}
