"""What a model does once for all its layers, before the first one, where it would be a chain of small launches in each."""

import contextlib
from collections.abc import Iterable

import torch
from torch import nn

from elmanctl.families.tied_layer import TiedLayer
from elmanctl.norms import implementation, working_dtype


def spectral_norms(layers: Iterable[nn.Module], like: torch.Tensor) -> contextlib.AbstractContextManager:
    """Return a context in which the layers find their spectrally normalised weights made: by Triton's kernels, on a GPU.

    Args:
        layers: those that ask for them inside, once each; layers of other families are left alone.
        like: a parameter of the model, which tells its device and the dtype of a computation.
    """
    if implementation(like.device) != "triton":
        return contextlib.nullcontext()
    weights = [layer.W for layer in layers if isinstance(layer, TiedLayer)]
    pairs = [(W.norm, W.weight) for W in weights if W.norm is not None and W.weight.dtype == torch.float32]
    if not pairs:
        return contextlib.nullcontext()
    from elmanctl.spectral_kernels import together

    return together(pairs, working_dtype(like))
