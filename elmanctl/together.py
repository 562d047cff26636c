"""What a model does for its layers before they run: once for all of them, or for each before the norm in front of it."""

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import nn

from elmanctl import casts
from elmanctl.norms import working_dtype
from elmanctl.streams import marked


@contextlib.contextmanager
def prepared(layers: Sequence[nn.Module], like: torch.Tensor) -> Iterator[None]:
    """Return a context with the casts of weights that layers ask for, made in a launch or a few; they run inside, and not again in the backward pass.

    What `ahead` begins inside waits for what the GPU was given before this, or before the last layer's recurrence: not for that recurrence.

    Args:
        like: a parameter of the model, which tells its device.
    """
    beginning = contextlib.nullcontext() if torch.compiler.is_compiling() else marked(like.device)
    with beginning, casts.together(weight for layer in layers for weight in layer.parameters()):
        yield


def ahead(layer: nn.Module, like: torch.Tensor) -> contextlib.AbstractContextManager:
    """Return what a layer's own `ahead(dtype)` gives, if it has that: a context to run the layer and the norm before it in.

    Args:
        like: a parameter of the model, which tells its device and the dtype of a computation.
    """
    begin = getattr(layer, "ahead", None)
    return begin(working_dtype(like)) if begin else contextlib.nullcontext()
