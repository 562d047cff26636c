"""Weights in autocast's dtype, for all layers at once: one launch a forward pass, or a few, in place of one for each weight.

A weight that `cast` is asked for is one that a layer projects by; the next forward pass inside `together` finds it made.
"""

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

_asked: WeakIdKeyDictionary = WeakIdKeyDictionary()  # weight -> the dtype that it was wanted in
_made: dict[int, Tensor] = {}


def cast(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a weight in a dtype; its gradient is the caller's business."""
    if weight.dtype == dtype or torch.compiler.is_compiling():
        return weight.to(dtype)
    made = _made.get(id(weight))
    if made is not None and made.dtype == dtype:
        return made
    _asked[weight] = dtype
    return weight.to(dtype)


@contextlib.contextmanager
def together(weights: Iterable[Tensor]) -> Iterator[None]:
    """Cast those of some weights that have been asked for, as they are now; what is made lives as long as somebody keeps it, or the context."""
    wanted = [(weight, dtype) for weight in weights if (dtype := _asked.get(weight)) is not None]
    with torch.no_grad():
        made = [torch.empty_like(weight, dtype=dtype) for weight, dtype in wanted]
        if made:
            torch._foreach_copy_(made, [weight for weight, _ in wanted])
    _made.update((id(weight), new) for (weight, _), new in zip(wanted, made, strict=True))
    try:
        yield
    finally:
        _made.clear()
