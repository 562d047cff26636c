"""Spectral normalisation of a recurrent weight, safe inside a CUDA graph.

* One unit vector u, an fp32 buffer that is updated in place and saved with the model; a model cast to bf16 or fp16 keeps it as it is, since
  steps of an iteration smaller than a rounding would be lost.
* The weight is scaled up as well as down, so its initial scale has no effect.
* A power iteration from a random u underestimates the norm (0.9 of it after three iterations at width 1000), which would let
  a linear recurrence grow; `warm` is called once the weight has its initial value.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-8
ITERATIONS = 3
WARM_ITERATIONS = 60


class SpectralNorm(nn.Module):
    """W -> rho W / (sigma + 1e-8), where sigma estimates the largest singular value of W.

    A training step first improves u by three power iterations; evaluation leaves u alone, so that it repeats bit by bit.
    The gradient takes u and v as constants:  with s = rho / (sigma + eps) and G the gradient of the result,
    d_W = s (G - <G, W> / (sigma + eps) sign(u^T W v) u v^T).

    Args:
        rows: rows of W (its output width).
        rho: the largest singular value of the result, below 1 for a state that must not grow.
    """

    def __init__(self, rows: int, rho: float):
        super().__init__()
        self.rho = rho
        self.register_buffer("u", F.normalize(torch.randn(rows, dtype=torch.float32), dim=0, eps=EPS))

    def extra_repr(self) -> str:
        return f"rho={self.rho}"

    def _apply(self, fn, recurse=True):
        u = self.u
        super()._apply(fn, recurse)
        if self.u.dtype in (torch.bfloat16, torch.float16):
            self.u = u.to(self.u.device)
        return self

    @torch.no_grad()
    def warm(self, W: Tensor, iterations: int = WARM_ITERATIONS) -> None:
        """Run power iterations on W, [rows, columns], and keep u. Does nothing on the meta device."""
        if not W.is_meta:
            with torch.autocast(W.device.type, enabled=False):
                self._iterate(W.float(), iterations)

    def _iterate(self, W: Tensor, iterations: int) -> None:
        for _ in range(iterations):
            self.u.copy_(_unit(W.mv(_unit(W.mT.mv(self.u)))))

    def forward(self, W: Tensor) -> Tensor:
        """Return the normalised weight in fp32 (fp64 for an fp64 weight), [rows, columns]."""
        with torch.autocast(W.device.type, enabled=False):
            W = W if W.dtype == torch.float64 else W.float()
            with torch.no_grad():
                if self.training:
                    self._iterate(W.to(self.u.dtype), ITERATIONS)
                # A copy, since backward needs this u after a later call has changed the buffer.
                u = self.u.to(W.dtype, copy=True)
                v = _unit(W.mT.mv(u))
            sigma = u.dot(W.mv(v)).abs()
            return W * (self.rho / (sigma + EPS))


class FactoredNorm(SpectralNorm):
    """U, V -> sqrt(s) U, sqrt(s) V with s = rho / (sigma + 1e-8), where sigma estimates the largest singular value of U V.

    As for a whole matrix, u of as many elements as U has rows; the product is never formed.
    """

    @torch.no_grad()
    def warm(self, U: Tensor, V: Tensor, iterations: int = WARM_ITERATIONS) -> None:
        """Run power iterations on U [rows, r], V [r, columns], and keep u. Does nothing on the meta device."""
        if not U.is_meta:
            with torch.autocast(U.device.type, enabled=False):
                self._iterate(U.float(), V.float(), iterations)

    def _iterate(self, U: Tensor, V: Tensor, iterations: int) -> None:
        for _ in range(iterations):
            self.u.copy_(_unit(U.mv(V.mv(_unit(V.mT.mv(U.mT.mv(self.u)))))))

    def forward(self, U: Tensor, V: Tensor) -> tuple[Tensor, Tensor]:
        """Return both factors, scaled, in fp32 (fp64 for fp64 factors)."""
        with torch.autocast(U.device.type, enabled=False):
            U, V = (x if x.dtype == torch.float64 else x.float() for x in (U, V))
            with torch.no_grad():
                if self.training:
                    self._iterate(U.to(self.u.dtype), V.to(self.u.dtype), ITERATIONS)
                u = self.u.to(U.dtype, copy=True)
                v = _unit(V.mT.mv(U.mT.mv(u)))
            scale = (self.rho / (u.dot(U.mv(V.mv(v))).abs() + EPS)).sqrt()
            return U * scale, V * scale


def _unit(x: Tensor) -> Tensor:
    return x / (x.norm() + EPS)
