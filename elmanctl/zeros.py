"""Zeros that everybody reads and nobody writes to: first states, and gradients of last states that nobody used.

They are made once, outside of any CUDA graph, so that a captured step has no launches for them.
"""

import torch
from torch import Tensor

MOST, COUNT = 4 * 2**20, 16  # bytes of a tensor that is kept, and how many are

_kept: dict[tuple[tuple[int, ...], torch.dtype, torch.device], Tensor] = {}


def zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return zeros, the same tensor as before where it is small and one was made outside a graph's capture."""
    key = tuple(shape), dtype, device
    if key in _kept:
        return _kept[key]
    capturing = device.type == "cuda" and torch.cuda.is_current_stream_capturing()
    with torch.inference_mode(False):  # or a backward pass could not keep what an evaluation made
        made = torch.zeros(shape, dtype=dtype, device=device)
    if not capturing and made.nbytes <= MOST:
        if len(_kept) == COUNT:
            _kept.pop(next(iter(_kept)))
        _kept[key] = made
    return made
