"""The layer of a variant on the tied family: one matrix for input and state, in a single-branch shell whose silu the kernel takes."""

import torch
from torch import Tensor, nn

from elmanctl.families.dense_layer import DenseLayer
from elmanctl.norms import implementation, working_dtype


class TiedLayer(DenseLayer):
    """A subclass sets `binding` and `rho`."""

    activate = False  # the kernel does, save after a convolution (families/tied.py, constants)

    def make_cell(self, inner: int, config) -> None:
        self.W = self.recurrent_weight(inner)
        self.b = nn.Parameter(torch.zeros(inner))

    def inputs(self, u: Tensor) -> dict[str, Tensor]:
        return {"u": u, "W": self.weight(working_dtype(u)), "b": self.b}

    def weight(self, dtype: torch.dtype) -> Tensor:
        """Return the weight that the recurrence uses; by Triton's kernels where there are such, in `dtype`."""
        norm, W = self.W.norm, self.W.weight
        if norm is None or W.dtype != torch.float32 or implementation(W.device) != "triton":
            return self.W()
        from elmanctl.spectral_kernels import normalised

        return normalised(norm, W, dtype)
