"""Noise of the accumulator: an error of a few units in the last place on every fp64 operation of torch, forward and backward.

A truth of some hundred steps comes to some hundred thousand operations on small tensors, so that what is done beside each of them decides
how long verify takes.
"""

import functools
import math
import random

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

POOL = 1 << 20

_MOVES = {
    "clone", "_to_copy", "copy_", "cat", "stack", "select_backward", "slice_backward", "select_scatter", "slice_scatter", "neg",
    "abs", "relu", "where", "masked_fill", "index", "index_select", "gather", "constant_pad_nd", "flip", "roll", "zeros_like",
    "ones_like", "empty_like", "new_zeros", "new_empty", "new_ones", "zeros", "ones", "full", "full_like", "empty", "arange",
    "zero_", "fill_", "sign", "max", "amax", "clamp", "clamp_min", "threshold_backward", "tril", "triu", "embedding",
    "repeat", "scalar_tensor", "new_empty_strided", "empty_strided", "maximum", "minimum", "as_strided_scatter", "detach",
}  # fmt: skip
_SUMS = {"sum", "mean", "cumsum"}
_PRODUCTS = {"mm", "bmm", "mv", "dot", "addmm", "baddbmm", "addmv", "convolution", "convolution_backward"}


class Noise(TorchDispatchMode):
    """Multiply the result of every fp64 operation by 1 + uniform(-size, size).

    A sum over K terms gets sqrt(K) of it, relative to the root of the sum of squares where that exceeds the sum: about what a sum
    in any order loses.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled in here; torch's guard against it would take a third of the time of a dispatch."""
        return False

    def __init__(self, size: float, generator: torch.Generator):
        super().__init__()
        self.size, self.generator = size, generator
        self.bits = random.Random(generator.initial_seed()).getrandbits
        self.pool = _pool()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **kwargs) if kwargs else function(*args)
        kind = _kinds.get(function) or _kind(function)
        if kind == "exact":
            return out
        results = out if isinstance(out, (tuple, list)) else (out,)
        if kind == "plain":
            for result in results:
                if _floating(result):
                    self._disturb(result, result)
            return out
        for result, scale in zip(results, _scales(kind, function, args, kwargs or {}, results), strict=True):
            if scale is not None:
                self._disturb(result, scale)
        return out

    def _disturb(self, result: Tensor, scale: Tensor) -> None:
        shape, count = result.shape, result.numel()
        if count < POOL // 4:
            noise = self.pool.as_strided(shape, _strides(shape), self._below(POOL - count))
        else:
            noise = torch.empty(shape, dtype=torch.float64).uniform_(-1, 1, generator=self.generator)
        result.addcmul_(noise, scale, value=self.size)

    def _below(self, limit: int) -> int:
        """Return a random number below a limit, as random.randrange does at three times the price."""
        width = limit.bit_length()
        while (found := self.bits(width)) >= limit:
            pass
        return found


@functools.cache
def _pool() -> Tensor:
    """Return uniform(-1, 1) numbers of which random stretches serve as noise: drawing anew takes most of the time."""
    return torch.empty(POOL, dtype=torch.float64).uniform_(-1, 1, generator=torch.Generator().manual_seed(1))


@functools.lru_cache(4096)
def _strides(shape: torch.Size) -> tuple[int, ...]:
    """Return the strides of a contiguous tensor."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


_kinds: dict[object, str] = {}


def _kind(function) -> str:
    """Sort an operation: `exact` (moves data), `plain`, `sum`, `product`, or `opaque` (sums inside, unknown)."""
    name = function._schema.name.split("::")[1]
    aliases = [r.alias_info for r in function._schema.returns if r.alias_info is not None]
    if name in _MOVES or any(not a.is_write for a in aliases):
        kind = "exact"
    elif name in _SUMS:
        kind = "sum"
    elif name in _PRODUCTS:
        kind = "product"
    else:
        kind = "opaque" if "attention" in name or "norm" in name or "softmax" in name else "plain"
    _kinds[function] = kind
    return kind


def _scales(kind: str, function, args, kwargs, results) -> list[Tensor | None]:
    """Return, for each result, the magnitude that the error of its sums is relative to; None where it is no fp64."""
    if kind == "opaque":
        return [r.abs().add_(r.square().mean().sqrt_()) if _floating(r) else None for r in results]
    squared = [a.square() if _floating(a) else a for a in args]
    if kind == "product" and _name(function) in ("addmm", "baddbmm", "addmv"):
        kwargs = {key: value * value for key, value in kwargs.items()}
    kwargs = {key: torch.empty_like(value) if key == "out" else value for key, value in kwargs.items()}
    squares = function(*squared, **kwargs)
    squares = squares if isinstance(squares, (tuple, list)) else (squares,)
    longest = max(a.numel() for a in args if _floating(a))
    scales = []
    for result, square in zip(results, squares, strict=True):
        if not _floating(result):
            scales.append(None)
            continue
        terms = _terms(_name(function), args, longest, result)
        scales.append(torch.maximum(result.abs(), square.abs_().sqrt_()).mul_(math.sqrt(terms)))
    return scales


@functools.cache
def _name(function) -> str:
    return function._schema.name.split("::")[1]


def _terms(name: str, args, longest: int, result: Tensor) -> int:
    """Return how many terms each element of a result sums."""
    if name in ("mm", "bmm", "mv", "dot"):
        return args[0].shape[-1]
    if name in ("addmm", "baddbmm", "addmv"):
        return args[1].shape[-1] + 1
    if name == "mean":
        return 1  # the root of the mean square is already sqrt(K) times the error of a sum divided by K
    if name == "cumsum":
        return args[0].shape[args[1]]
    return max(1, longest // max(1, result.numel()))


def _floating(x) -> bool:
    return isinstance(x, Tensor) and x.dtype == torch.float64
