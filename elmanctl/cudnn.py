"""Weights of a cuDNN recurrent cell, cast for its dtype and laid out as the library wants them.

* torch's own autocast of cuDNN cells always chooses float16, whatever dtype was asked for, and float16 gradients need a loss scale that
  the training loop does not use: a layer casts the weights itself and switches autocast off around the cell.
* Weights that do not lie in one buffer, in cuDNN's order, are copied into one at every call, with a warning. torch lays out float32
  cells that way, but no bfloat16 ones.
"""

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
