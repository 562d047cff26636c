"""Where and how a computation rounds: stochastic rounding, marked points, and accumulator noise on every operation.

* A *point* is a place that `Kernel.rounds` names and reference.py marks with `at(name, x)`: rounded to the compute dtype.
* Everything else runs in the accumulator. `Noise` gives each result of each torch operation, forward and backward, an error of
  a few units in the last place of the accumulator, so that the floor contains how a recurrence amplifies it over time.
* Stochastic rounding goes up or down with probability by distance: unbiased, and never nearer than rounding to nearest.
"""

import functools
import math
import random

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from elmanctl.kernel import Kernel
from elmanctl.tensors import ACCUMULATOR
from elmanctl.verify.policy import UNITS

UNIT = {"float32": 2.0**-24, "float64": 2.0**-53}  # unit roundoff
TINY = {"float32": 2.0**-126, "float64": 2.0**-1022}  # smallest normal number
# Bits of an fp64 mantissa that a narrower format lacks. A store in fp64 itself is modelled with an error of up to one unit too.
DROPPED = {"bfloat16": 45, "float32": 29, "float64": 1}
# UNITS: an elementwise fp32 function of CUDA's or the C library is within 2 ulp = 4 units; a kernel may spend two where torch spends one.
POOL = 1 << 20
DIRECTIONS = ("forward", "backward", "both", "saved")
ABSOLUTE = "absolute"  # `absolute 3e-7`: a function of the bf16 build whose error is bounded by that, and not relative to its value
LARGEST_ABSOLUTE = 2.0**-20  # more would hide what fp32 shows of a state of size 1

_MOVES = {
    "clone", "_to_copy", "copy_", "cat", "stack", "select_backward", "slice_backward", "select_scatter", "slice_scatter", "neg",
    "abs", "relu", "where", "masked_fill", "index", "index_select", "gather", "constant_pad_nd", "flip", "roll", "zeros_like",
    "ones_like", "empty_like", "new_zeros", "new_empty", "new_ones", "zeros", "ones", "full", "full_like", "empty", "arange",
    "zero_", "fill_", "sign", "max", "amax", "clamp", "clamp_min", "threshold_backward", "tril", "triu", "embedding",
    "repeat", "scalar_tensor", "new_empty_strided", "empty_strided", "maximum", "minimum", "as_strided_scatter", "detach",
}  # fmt: skip
_SUMS = {"sum", "mean", "cumsum"}
_PRODUCTS = {"mm", "bmm", "mv", "dot", "addmm", "baddbmm", "addmv", "convolution", "convolution_backward"}


def stochastic(x: Tensor, dtype: str, generator: torch.Generator) -> Tensor:
    """Round fp64 values to the grid of `dtype`, up or down with probability by distance. Returns fp64 of the same shape."""
    bits = DROPPED[dtype]
    raw = x.contiguous().view(torch.int64)
    dither = torch.randint(0, 1 << bits, raw.shape, generator=generator)
    return ((raw + dither) & -(1 << bits)).view(torch.float64)


class _Point(torch.autograd.Function):
    """A marked point: rounds the value, the gradient, or both; otherwise the identity."""

    @staticmethod
    def forward(ctx, x, rounding, direction):
        ctx.rounding = rounding if direction in ("backward", "both") else None
        return rounding.round(x) if direction in ("forward", "both") else x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return (gradient if ctx.rounding is None else ctx.rounding.round(gradient)), None, None


def absolute(direction: str) -> float | None:
    """Return the size in `absolute 3e-7`; None for a direction.

    Raises:
        ValueError: for a size that is no number, or larger than LARGEST_ABSOLUTE.
    """
    word, _, text = direction.partition(" ")
    if word != ABSOLUTE:
        return None
    size = float(text)
    if not 0 < size <= LARGEST_ABSOLUTE:
        raise ValueError(f"rounds has {direction!r}; an absolute error may be at most {LARGEST_ABSOLUTE:.1e}.")
    return size


class Rounding:
    """One stochastic evaluation: use as `with Rounding(kernel, dtype, seed) as r: reference.forward(..., at=r.at)`.

    Args:
        kernel: whose `rounds` names the points; None where there are none (a layer in fp32).
        dtype: compute dtype.
        seed: of the generator that all roundings draw from.
    """

    def __init__(self, kernel: Kernel | None, dtype: str, seed: int):
        self.points = {n: text.partition(" ?")[0] for n, text in kernel.rounds.items()} if kernel else {}
        self.sizes = {n: size for n, d in self.points.items() if (size := absolute(d)) is not None}
        if wrong := [f"{n}: {d}" for n, d in self.points.items() if d not in DIRECTIONS and n not in self.sizes]:
            raise ValueError(f"rounds has {', '.join(wrong)}; use {', '.join(DIRECTIONS)}, {ABSOLUTE} SIZE.")
        self.dtype = dtype
        self.generator = torch.Generator().manual_seed(seed)
        self.noise = Noise(UNITS * UNIT[ACCUMULATOR[dtype]], self.generator)
        self.marked: set[str] = set()
        self._saved: dict[int, Tensor] = {}
        self._hooks = None

    def round(self, x: Tensor, dtype: str | None = None) -> Tensor:
        """Return x rounded to the compute dtype, or to another."""
        with self.noise.paused():
            return stochastic(x, dtype or self.dtype, self.generator)

    def at(self, name: str, x: Tensor) -> Tensor:
        """Mark a rounding point; see Kernel.rounds."""
        if name not in self.points:
            raise KeyError(f"reference.py marks the rounding point {name!r}, which binding.py's rounds does not name.")
        self.marked.add(name)
        if name in self.sizes:
            return self._near(x, self.sizes[name]) if self.dtype == "bfloat16" else x
        direction = self.points[name]
        result = _Point.apply(x, self, direction)
        if direction == "saved":
            self._saved[result.untyped_storage().data_ptr()] = (result, self.round(result.detach()))
        return result

    def _near(self, x: Tensor, size: float) -> Tensor:
        with self.noise.paused():
            noise = torch.empty(x.shape, dtype=x.dtype).uniform_(-size, size, generator=self.generator)
            return x + noise

    def _pack(self, kept: Tensor) -> Tensor:
        found = self._saved.get(kept.untyped_storage().data_ptr())
        return kept if found is None else found[1].as_strided(kept.shape, kept.stride(), kept.storage_offset())

    def __enter__(self):
        self.noise.__enter__()
        if "saved" in self.points.values():
            self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda kept: kept)
            self._hooks.__enter__()
        return self

    def __exit__(self, *error):
        if self._hooks is not None:
            self._hooks.__exit__(*error)
        self.noise.__exit__(*error)


class Noise(TorchDispatchMode):
    """Multiply the result of every fp64 operation by 1 + uniform(-size, size).

    A sum over K terms gets sqrt(K) of it, relative to the root of the sum of squares where that exceeds the sum: about what a sum
    in any order loses.
    """

    def __init__(self, size: float, generator: torch.Generator):
        super().__init__()
        self.size, self.generator, self.quiet = size, generator, False
        self.random = random.Random(generator.initial_seed())
        self.pool = _pool()

    def paused(self) -> "_Pause":
        """Run operations without noise inside this context."""
        return _Pause(self)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if self.quiet:
            return out
        kind = _kinds.get(function) or _kind(function)
        if kind == "exact":
            return out
        results = out if isinstance(out, (tuple, list)) else (out,)
        scales = [None] * len(results) if kind == "plain" else _scales(kind, function, args, kwargs or {}, results)
        for result, scale in zip(results, scales, strict=True):
            if isinstance(result, Tensor) and result.dtype == torch.float64:
                self._disturb(result, scale)
        return out

    def _disturb(self, result: Tensor, scale: Tensor | None) -> None:
        count = result.numel()
        if count < POOL // 4:
            noise = self.pool.narrow(0, self.random.randrange(POOL - count), count).view(result.shape)
        else:
            noise = torch.empty(result.shape, dtype=torch.float64).uniform_(-1, 1, generator=self.generator)
        result.addcmul_(noise, result if scale is None else scale, value=self.size)


@functools.cache
def _pool() -> Tensor:
    """Return uniform(-1, 1) numbers of which random stretches serve as noise: drawing anew takes most of the time."""
    return torch.empty(POOL, dtype=torch.float64).uniform_(-1, 1, generator=torch.Generator().manual_seed(1))


class _Pause:
    def __init__(self, noise: Noise):
        self.noise = noise

    def __enter__(self):
        self.before, self.noise.quiet = self.noise.quiet, True

    def __exit__(self, *error):
        self.noise.quiet = self.before


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
    """Return, for each result, the magnitude that the error of its sums is relative to."""
    if kind == "opaque":
        return [r.abs() + r.square().mean().sqrt() if _floating(r) else None for r in results]
    squared = [a.square() if _floating(a) else a for a in args]
    if kind == "product" and function._schema.name.split("::")[1] in ("addmm", "baddbmm", "addmv"):
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
        terms = _terms(function._schema.name.split("::")[1], args, longest, result)
        scales.append(math.sqrt(terms) * torch.maximum(result.abs(), square.abs().sqrt()))
    return scales


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
