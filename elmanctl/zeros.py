"""Zeros that everybody reads and nobody writes to: first states, and gradients of last states that nobody used.

* They are made once, outside of any CUDA graph, so that a captured step has no launches for them.
* A graph holds an address, no reference, and may live as long as the process: what a capture was given is never freed.
"""

import threading

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

MOST, COUNT = 4 * 2**20, 16  # bytes of a tensor that is kept, and how many are that no capture was given

_captured: dict[tuple, Tensor] = {}
_recent: dict[tuple, Tensor] = {}  # the one that was asked for last at the end
_lock = threading.Lock()  # a backward pass asks in autograd's threads


def zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return zeros, the same tensor as before where it is small and one was made outside a graph's capture."""
    if is_in_torch_dispatch_mode():  # it makes tensors of its own kind and may refuse others, as FakeTensorMode does
        return torch.zeros(shape, dtype=dtype, device=device)
    key = tuple(shape), dtype, device
    capturing = _capturing(device)
    with _lock:
        found = _captured.get(key)
        if found is None and (found := _recent.pop(key, None)) is not None:
            (_captured if capturing else _recent)[key] = found
        if found is not None:
            return found
    with torch.inference_mode(False):  # or a backward pass could not keep what an evaluation made
        made = torch.zeros(shape, dtype=dtype, device=device)
    if not capturing and made.nbytes <= MOST:
        with _lock:
            _recent[key] = made
            if len(_recent) > COUNT:
                del _recent[next(iter(_recent))]
    return made


def _capturing(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()
