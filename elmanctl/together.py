"""What a model does once for all its layers, before the first one, where it would be a chain of small launches in each."""

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import nn

from elmanctl import casts
from elmanctl.families.tied_layer import TiedLayer
from elmanctl.norms import implementation, working_dtype


@contextlib.contextmanager
def prepared(layers: Sequence[nn.Module], like: torch.Tensor) -> Iterator[None]:
    """Make what layers will ask for inside, once each: casts of their weights, and on a GPU their spectrally normalised weights.

    Args:
        layers: those that run inside and not again in the backward pass.
        like: a parameter of the model, which tells its device and the dtype of a computation.
    """
    # The norms first: they run beside the casts.
    with spectral_norms(layers, like), casts.together(weight for layer in layers for weight in layer.parameters()):
        yield


def spectral_norms(layers: Sequence[nn.Module], like: torch.Tensor) -> contextlib.AbstractContextManager:
    """Return a context in which the layers of the tied family find their weights made by Triton's kernels, where such run."""
    if implementation(like.device) != "triton":
        return contextlib.nullcontext()
    weights = [layer.W for layer in layers if isinstance(layer, TiedLayer)]
    pairs = [(W.norm, W.weight) for W in weights if W.norm is not None and W.weight.dtype == torch.float32]
    if not pairs:
        return contextlib.nullcontext()
    from elmanctl.spectral_kernels import together

    return together(pairs, working_dtype(like))
