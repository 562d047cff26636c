"""Is what autograd gives a layer the derivative of what the layer computes? Held against central differences, in fp64.

* A layer's truth is the layer itself in fp64, so a backward pass that somebody wrote, an autograd.Function of the tool or of a layer.py, is
  in it too and cannot be found by comparison with it. Differences need no backward pass.
* Every tensor alone, along a random direction of its own: no tensor hides behind a larger one, and no part of a gradient behind the rest of it.
* Every run begins with the same buffers. What a layer cuts out of the graph by `detach()` is a constant to autograd, and here.
"""

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

# Steps as shares of a tensor's root mean square. In all configurations of what is shipped the first misses by 1.1e-7 of the gradient at most;
# the shorter one is for a kink on the way (relu), the longer ones for a gradient that is small beside what the layer returns.
STEPS = (1e-5, 1e-6, 1e-4, 1e-3)
TOLERANCE = 1e-6  # of the gradient's L2 norm
# Of a difference, relative to what is returned: a gradient that is zero but for rounding must not fail.
ROUNDING = 100 * 2.0**-53


class Way(NamedTuple):
    """The slope along one direction: by autograd, and by the differences that come nearest to it."""

    name: str
    autograd: float
    difference: float

    def text(self) -> str:
        return f"{self.name} (along a random direction autograd gives {self.autograd:.6g}, differences {self.difference:.6g})"


class Constants(TorchFunctionMode):
    """Keeps what `detach()` returns in one run, and gives the same tensors, call for call, in another."""

    def __init__(self, kept: Iterable[Tensor] | None = None):
        super().__init__()
        self.made: list[Tensor] = []
        self.kept = None if kept is None else iter(kept)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        # Inside an autograd.Function gradients are off: its forward pass is what its backward pass has to be the derivative of.
        if getattr(function, "__name__", "") != "detach" or not torch.is_grad_enabled():
            return out
        self.made.append(out.clone())
        former = next(self.kept, None) if self.kept is not None else None
        return out if former is None or former.shape != out.shape else former.clone()


def wrong(
    layer: nn.Module,
    inputs: Mapping[str, Tensor],
    results: Callable[[nn.Module, Mapping[str, Tensor]], Mapping[str, Tensor]],
    upstream: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]],
    gradients: Mapping[str, Tensor],
    seed: int,
) -> list[Way]:
    """Return the inputs and parameters whose gradient is not the derivative of the results.

    Args:
        layer: in fp64; each run is of a copy.
        inputs: what it is run on, by name.
        results: runs a layer on inputs.
        upstream: returns the gradient of each of the results that it is called with, those that depend on anything.
        gradients: what autograd found, `d_` and the name of an input or a parameter.
        seed: of the directions.
    """

    def run(constants: Constants, name: str = "", shift: Tensor | float = 0.0) -> dict[str, Tensor]:
        moved, given = copy.deepcopy(layer), {n: t.detach().clone().requires_grad_() for n, t in inputs.items()}
        if name:
            with torch.no_grad():
                (given[name] if name in given else moved.get_parameter(name)).add_(shift)
        with constants:
            return dict(results(moved, given))

    first, generator = Constants(), torch.Generator().manual_seed(seed)
    live = {n: t for n, t in run(first).items() if t.requires_grad}
    weights = upstream(live)
    size = sum(float((live[n].detach() * w).square().sum()) for n, w in weights.items()) ** 0.5
    found = []
    for name, tensor in {**inputs, **dict(layer.named_parameters())}.items():
        if not tensor.numel():
            continue
        tensor, gradient = tensor.detach(), gradients[f"d_{name}"]
        length = float(tensor.square().mean().sqrt()) or 1.0
        direction = length * torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
        slope, allowed = float((gradient * direction).sum()), TOLERANCE * length * float(gradient.norm())
        tried = []
        for step in STEPS:
            up, down = (run(Constants(first.made), name, sign * step * direction) for sign in (1, -1))
            # Element by element, so that what the tensor does not reach cancels exactly.
            tried.append(sum(float(((up[n] - down[n]).detach() * w).sum()) for n, w in weights.items()) / (2 * step))
            if abs(tried[-1] - slope) <= allowed + ROUNDING * size / step:
                break
        else:
            found.append(Way(name, slope, min(tried, key=lambda value: abs(value - slope))))
    return found
