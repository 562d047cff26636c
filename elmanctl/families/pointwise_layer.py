"""Layers of the variants on the pointwise family: one product makes all projections that the kernel reads, side by side."""

from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elmanctl.ops import recurrence
from elmanctl.rules import inner_width
from elmanctl.shells import Shell, linear


class Projections(nn.Module):
    """Several maps of one input, their results side by side: [..., width] to [..., count * width], as one product.

    Each weight is Xavier-uniform by itself.

    Args:
        biases: the initial bias of each map.
    """

    def __init__(self, width: int, biases: tuple[float, ...]):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(len(biases) * width, width))
        for part in self.weight.detach().chunk(len(biases)):
            nn.init.xavier_uniform_(part)
        self.bias = nn.Parameter(torch.tensor(biases).repeat_interleave(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class PointwiseLayer(Shell):
    """A shell around a pointwise cell. A variant's layer names its binding and biases, and makes its other parameters.

    Class attributes:
        binding: the variant's binding.py.
        biases: the initial bias of each projection, in the order in which the kernel reads them.
    """

    binding: ModuleType
    biases: tuple[float, ...]

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
        return {"proj": self.W(u)}

    def make_cell(self, inner: int, config) -> None:
        self.constants = self.binding.constants(config)
        self.W = Projections(inner, self.initial_biases(config))
        self.make_parameters(inner, config)

    def cell(self, state: dict[str, Tensor], u: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        inputs = {**self.inputs(u), **self.vectors(), "h0": state["h"]}
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
