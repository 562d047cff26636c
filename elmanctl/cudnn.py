"""A layer around one of cuDNN's recurrent cells, whose weights are cast for its dtype and laid out as the library wants them.

* torch's own autocast of cuDNN cells always chooses float16, whatever dtype was asked for, and float16 gradients need a loss scale that
  the training loop does not use: a layer casts the weights itself and switches autocast off around the cell.
* Weights that do not lie in one buffer, in cuDNN's order, are copied into one at every call, with a warning. torch lays out float32
  cells that way, but no bfloat16 ones.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from elmanctl.errors import UserError

CUDNN_WITH_BF16 = 91300  # the first release whose recurrent cells take bfloat16


def cell_weights(cell: nn.RNNBase, u: Tensor) -> list[Tensor]:
    """Return the weights of a cell of one layer in the dtype of `u`: the parameters themselves, or cast views of one flat buffer.

    Raises:
        UserError: for bfloat16 on a GPU whose cuDNN cannot run the cell in it.
    """
    weights = [cell.weight_ih_l0, cell.weight_hh_l0, cell.bias_ih_l0, cell.bias_hh_l0]
    if u.dtype == weights[0].dtype:
        return weights
    if u.is_cuda and u.dtype == torch.bfloat16 and (torch.backends.cudnn.version() or 0) < CUDNN_WITH_BF16:
        raise UserError(
            f"{type(cell).__name__} in bfloat16 needs cuDNN {CUDNN_WITH_BF16} or newer; this torch has "
            f"{torch.backends.cudnn.version()}. Install torch 2.10 or newer, built for CUDA 12.8 or newer."
        )
    flat = torch.cat([w.flatten() for w in weights]).to(u.dtype)
    return [part.view_as(w) for part, w in zip(flat.split([w.numel() for w in weights]), weights, strict=True)]


class CellLayer(nn.Module):
    """y = W_out cell(W_in x), with [B, T, dim] in and out and a cell of width dim * expansion. A variant says which cell.

    Args:
        dim: model width.
        config: the variant's Config, with `expansion`.
    """

    no_decay: frozenset[str] = frozenset()
    cell_class: ClassVar[type[nn.RNNBase]]
    function: ClassVar[str]  # torch's, which runs the cell
    gates: ClassVar[int] = 1  # blocks of rows in the cell's weights
    states: ClassVar[tuple[str, ...]] = ("h",)

    def __init__(self, dim: int, config):
        super().__init__()
        inner = dim * config.expansion
        self.in_proj = nn.Linear(dim, inner, bias=False)
        self.cell = self.cell_class(inner, inner, batch_first=True)
        self.out_proj = nn.Linear(inner, dim, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the parameters: input weights N(0, 0.02), recurrent weights orthogonal per gate, biases and W_out zero."""
        if self.in_proj.weight.is_meta:
            return  # without numbers to draw, normal_ costs seconds: it loads torch's compiler
        nn.init.normal_(self.in_proj.weight, std=0.02)
        nn.init.normal_(self.cell.weight_ih_l0, std=0.02)
        for gate in self.cell.weight_hh_l0.detach().chunk(self.gates):
            nn.init.orthogonal_(gate)
        nn.init.zeros_(self.cell.bias_ih_l0)
        nn.init.zeros_(self.cell.bias_hh_l0)
        nn.init.zeros_(self.out_proj.weight)

    def initial_state(self, batch: int, device, dtype) -> dict[str, Tensor]:
        """Return the zero state: each of `states` [B, inner]."""
        return {name: torch.zeros(batch, self.cell.hidden_size, device=device, dtype=dtype) for name in self.states}

    def forward(self, x: Tensor, state: dict | None = None) -> tuple[Tensor, dict]:
        """Run the layer.

        Args:
            x: [B, T, dim].
            state: each of `states` [B, inner] before the first step; None stands for zero.
        Returns:
            y [B, T, dim], and the state after the last step in float32 (float64 for float64 inputs).
        Raises:
            UserError: for bfloat16 on a GPU whose cuDNN cannot run the cell in it.
        """
        u = self.in_proj(x)
        if state is None:
            state = self.initial_state(x.shape[0], x.device, u.dtype)
        first = [state[name].to(u.dtype)[None] for name in self.states]
        with torch.autocast(x.device.type, enabled=False):
            # cuDNN keeps what its backward needs only in training mode; there is no dropout that the mode would turn on.
            h, *last = getattr(torch, self.function)(
                u,
                first if len(first) > 1 else first[0],
                cell_weights(self.cell, u),
                True,
                1,
                0.0,
                torch.is_grad_enabled(),
                False,
                True,
            )
        wide = torch.promote_types(u.dtype, torch.float32)
        return self.out_proj(h), {name: part[0].to(wide) for name, part in zip(self.states, last, strict=True)}
