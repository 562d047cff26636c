"""Layers of the variants on the pointwise family: one product makes all projections that the kernel reads, side by side."""

from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elmanctl.ops import recurrence
from elmanctl.rules import inner_width
from elmanctl.shells import Shell, linear


def projections(width: int, count: int) -> nn.Parameter:
    """Return the weights of `count` maps from `width` channels to as many, one below the other, [count * width, width]; each Xavier-uniform."""
    made = nn.Parameter(torch.empty(count * width, width))
    for part in made.detach().chunk(count):
        nn.init.xavier_uniform_(part)
    return made


class PointwiseLayer(Shell):
    """A shell around a pointwise cell. A variant's layer names its binding and biases, and makes its other parameters.

    Class attributes:
        binding: the variant's binding.py.
        biases: the initial bias of each of the kernel's inputs over time, in the order in which it reads them.
        unprojected: how many of these, the last ones, are no projections but `inputs` knows where they come from.
    """

    binding: ModuleType
    biases: tuple[float, ...]
    unprojected = 0

    def initial_biases(self, config) -> tuple[float, ...]:
        """Return the biases for these options."""
        return self.biases

    def make_parameters(self, inner: int, config) -> None:
        """Make the parameters beside the projections, where there are any."""

    def vectors(self) -> dict[str, Tensor]:
        """Return the kernel's vectors by name, [inner] each."""
        return {}

    def inputs(self, u: Tensor) -> dict[str, Tensor]:
        """Return the kernel's inputs over time from u [B, T, inner]."""
        return {"proj": F.linear(u, self.W)}

    def make_cell(self, inner: int, config) -> None:
        self.constants = self.binding.constants(config)
        biases = self.initial_biases(config)
        self.W = projections(inner, len(biases) - self.unprojected)
        self.bias = nn.Parameter(torch.tensor(biases).repeat_interleave(inner))
        self.make_parameters(inner, config)

    def cell(self, state: dict[str, Tensor], u: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        inputs = {**self.inputs(u), "bias": self.bias, **self.vectors(), "h0": state["h"]}
        out = recurrence(self.binding.kernel, inputs, self.constants)
        return out["y"], {"h": out["h_last"]}


class MinimalLayer(nn.Module):
    """Without a shell: W maps the layer's input to what the kernel reads, and W_out back to the model's width where the cell is not as wide.

    y = W_out cell(W x), [B, T, dim] in and out. State: "h" [B, inner], fp32 (fp64 in an fp64 model), zero at first.

    Class attributes:
        binding: the variant's binding.py.
        projections: how many the kernel reads.

    Args:
        dim: width of the model.
        config: the variant's Config; `expansion` is read here.
    """

    binding: ModuleType
    projections: int
    no_decay: frozenset[str] = frozenset()

    def __init__(self, dim: int, config):
        super().__init__()
        self.inner, self.constants = inner_width(dim, config.expansion), self.binding.constants(config)
        self.W = linear(dim, self.projections * self.inner, bias=False)
        self.W_out = None if self.inner == dim else linear(self.inner, dim, bias=False)

    def initial_state(self, batch: int, device, dtype=torch.float32) -> dict[str, Tensor]:
        """Return the zero state."""
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        return {"h": torch.zeros(batch, self.inner, device=device, dtype=wide)}

    def forward(self, x: Tensor, state: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Run over [B, T, dim] from `state`; return y [B, T, dim] and the state after the last step."""
        state = state or self.initial_state(x.shape[0], x.device, self.W.weight.dtype)
        out = recurrence(self.binding.kernel, {"proj": self.W(x), "h0": state["h"]}, self.constants)
        return out["y"] if self.W_out is None else self.W_out(out["y"]), {"h": out["h_last"]}
