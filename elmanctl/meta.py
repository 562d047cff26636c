"""Building modules on torch's meta device: shapes and dtypes without memory."""

import contextlib
from collections.abc import Iterator

import torch
from torch.overrides import TorchFunctionMode

FILLS = (torch.Tensor.normal_, torch.Tensor.uniform_, torch.nn.init.normal_, torch.nn.init.uniform_)


class Unfilled(TorchFunctionMode):
    """Skips random fills. There are no values to fill, and on the meta device a fill imports torch's compiler, which takes a second."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function in FILLS:
            return args[0] if args else kwargs["tensor"]
        return function(*args, **kwargs)


@contextlib.contextmanager
def building() -> Iterator[None]:
    """Build what is constructed inside on the meta device."""
    with torch.device("meta"), Unfilled():
        yield
