"""Where and how a computation rounds: stochastic rounding, marked points, and accumulator noise on every operation.

* A *point* is a place that `Kernel.rounds` names and reference.py marks with `at(name, x)`: rounded to the compute dtype.
* Everything else runs in the accumulator. `Noise` gives each result of each torch operation, forward and backward, an error of
  a few units in the last place of the accumulator, so that the floor contains how a recurrence amplifies it over time.
* Stochastic rounding goes up or down with probability by distance: unbiased, and never nearer than rounding to nearest.
"""

import torch
from torch import Tensor
from torch._C import _DisableTorchDispatch as unwatched

from elmanctl.kernel import Kernel
from elmanctl.tensors import ACCUMULATOR
from elmanctl.verify.noise import Noise
from elmanctl.verify.policy import UNITS

UNIT = {"float32": 2.0**-24, "float64": 2.0**-53}  # unit roundoff
TINY = {"float32": 2.0**-126, "float64": 2.0**-1022}  # smallest normal number
# Bits of an fp64 mantissa that a narrower format lacks. A store in fp64 itself is modelled with an error of up to one unit too.
DROPPED = {"bfloat16": 45, "float32": 29, "float64": 1}
# UNITS: an elementwise fp32 function of CUDA's or the C library is within 2 ulp = 4 units; a kernel may spend two where torch spends one.
DIRECTIONS = ("forward", "backward", "both", "saved")
ABSOLUTE = "absolute"  # `absolute 3e-7`: a function of the bf16 build whose error is bounded by that, and not relative to its value
LARGEST_ABSOLUTE = 2.0**-20  # more would hide what fp32 shows of a state of size 1


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
        with unwatched():
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
        with unwatched():
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
