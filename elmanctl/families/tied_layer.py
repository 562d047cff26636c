"""The layer of a variant on the tied family: one matrix for input and state, in a single-branch shell whose silu the kernel takes."""

import contextlib

import torch
from torch import Tensor, nn

from elmanctl.families.dense_layer import DenseLayer
from elmanctl.norms import implementation, working_dtype
from elmanctl.ops import project
from elmanctl.zeros import zeros


class Projection(nn.Module):
    """x W^T by ops.project: under autocast the weight's gradient is made in fp32 and no cast of the weight is kept."""

    def __init__(self, weight: nn.Parameter):
        super().__init__()
        self.weight = weight

    def forward(self, x: Tensor) -> Tensor:
        return project(x, self.weight)[0]


class TiedLayer(DenseLayer):
    """A subclass sets `binding` and `rho`."""

    activate = False  # the kernel does, save after a convolution (families/tied.py, constants)

    def __init__(self, dim: int, config):
        super().__init__(dim, config)
        self.W_in, self.W_out = Projection(self.W_in.weight), Projection(self.W_out.weight)

    def make_cell(self, inner: int, config) -> None:
        self.W = self.recurrent_weight(inner)
        self.b = nn.Parameter(torch.zeros(inner))

    def forward(self, x: Tensor, state: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Run over [B, T, dim] from `state`, or from zeros that are made once; return y [B, T, dim] and the state after the last step."""
        if state is None and not torch.compiler.is_compiling():
            first = self.initial_state(x.shape[0], "meta", self.W_in.weight.dtype)
            state = {name: zeros(t.shape, t.dtype, x.device) for name, t in first.items()}
        return super().forward(x, state)

    def inputs(self, u: Tensor) -> dict[str, Tensor]:
        return {"u": u, "W": self.weight(working_dtype(u)), "b": self.b}

    def ahead(self, dtype: torch.dtype) -> contextlib.AbstractContextManager:
        """Return a context in which to run the layer: its weight is begun with beside what comes before its use (model.py enters it before the norm)."""
        if not self._by_kernels():
            return contextlib.nullcontext()
        from elmanctl.spectral_kernels import begun

        return begun(self.W.norm, self.W.weight, dtype)

    def weight(self, dtype: torch.dtype) -> Tensor:
        """Return the weight that the recurrence uses; by Triton's kernels where there are such and no compiler looks, in `dtype`."""
        if not self._by_kernels():
            return self.W()
        from elmanctl.spectral_kernels import normalised

        return normalised(self.W.norm, self.W.weight, dtype)

    def _by_kernels(self) -> bool:
        W = self.W.weight
        plain = self.W.norm is None or W.dtype != torch.float32 or torch.compiler.is_compiling()
        return not plain and implementation(W.device) == "triton"
