"""Spectral normalisation of a weight by the programs of spectral_programs.py: four launches, two more for each further iteration, two for the gradient.

* W^T u travels as rows whose sum it is, added up in a fixed order; vectors are divided by their length where they are read.
* With w = W^T u, v = w / (|w| + eps) and sigma = u^T W v = |w|^2 / (|w| + eps): the last product of spectral.py, W v, is not formed.
* All sums are fp32 whatever the device's settings for products; the same numbers in every run.
* Inside `begun` a weight is made on the stream beside the present one, since a layer's norm and projection come before its use;
  `normalised` waits for it. Autograd takes its gradient on that stream too, beside the products that come after.
"""

import contextlib
from collections.abc import Iterator

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from elmanctl.spectral import EPS, ITERATIONS, SpectralNorm
from elmanctl.spectral_programs import spectral_columns, spectral_dot, spectral_gradient, spectral_rows, spectral_scale
from elmanctl.streams import beside

TALL, DEEP = 64, 512  # rows of a tile of `spectral_columns`, and that a program of it adds up
SHORT, LONG = 16, 256  # rows of a program of `spectral_rows`, columns of its tile
COLUMNS = 64
FLAT, SHARE, PROGRAMS = 4096, 4, 128

_begun: dict[tuple[SpectralNorm, torch.dtype], tuple[Tensor, torch.cuda.Event | None]] = {}


class SpectralFunction(torch.autograd.Function):
    """SpectralNorm.forward of an fp32 weight [rows, columns] with its buffer u on a GPU, in the dtype that its reader wants."""

    @staticmethod
    def forward(ctx, W: Tensor, buffer: Tensor, rho: float, iterations: int, dtype: torch.dtype):
        W = W.contiguous()
        rows, columns = W.shape
        wide, parts = triton.next_power_of_2(rows), triton.cdiv(rows, DEEP)
        u, Wv, v, w_parts, length, sigma = (
            torch.empty(n, dtype=torch.float32, device=W.device) for n in (rows, rows, columns, parts * columns, 1, 1)
        )
        for number in range(iterations + 1):
            if number:
                spectral_rows[(triton.cdiv(rows, SHORT),)](
                    W, w_parts, Wv, rows, columns, EPS, PARTS=parts, SHORT=SHORT, LONG=LONG
                )
            spectral_columns[(triton.cdiv(columns, COLUMNS), parts)](
                W, Wv if number else buffer, w_parts, u, rows, columns, EPS,
                UNIT=number == 0, WIDE=wide, TALL=TALL, DEEP=DEEP, COLUMNS=COLUMNS,
            )  # fmt: skip
        result = torch.empty(W.shape, dtype=dtype, device=W.device)
        spectral_scale[(triton.cdiv(rows * columns, FLAT * SHARE),)](
            W, result, buffer, u, w_parts, v, length, sigma, rows, columns, rho, EPS,
            KEEP=iterations > 0, WIDE=wide, PARTS=parts, LONG=LONG, FLAT=FLAT, SHARE=SHARE,
        )  # fmt: skip
        ctx.save_for_backward(u, v, length, sigma, W)
        ctx.rho = rho
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx, G: Tensor):
        u, v, length, sigma, W = ctx.saved_tensors
        (rows, columns), G, dW = W.shape, G.contiguous(), torch.empty_like(W)
        dots = torch.empty(PROGRAMS, dtype=torch.float32, device=W.device)
        spectral_dot[(PROGRAMS,)](G, W, dots, rows * columns, FLAT=FLAT)
        spectral_gradient[(triton.cdiv(rows, TALL), triton.cdiv(columns, COLUMNS))](
            G, dW, u, v, length, sigma, dots, rows, columns, ctx.rho, EPS, PROGRAMS=PROGRAMS, ROWS=TALL, COLUMNS=COLUMNS
        )
        return dW, None, None, None, None


def _made(norm: SpectralNorm, W: Tensor, dtype: torch.dtype) -> Tensor:
    return SpectralFunction.apply(W, norm.u, norm.rho, ITERATIONS if norm.training else 0, dtype)


@contextlib.contextmanager
def begun(norm: SpectralNorm, W: Tensor, dtype: torch.dtype) -> Iterator[None]:
    """Normalise the weight [rows, columns] that a layer inside will ask `normalised` for, beside what comes before that."""
    stream, key = beside(W.device, early=True), (norm, dtype)
    with torch.cuda.stream(stream):
        _begun[key] = _made(norm, W, dtype), stream.record_event() if stream is not None else None
    try:
        yield
    finally:
        if _begun.pop(key, None) is not None and stream is not None:
            # Nobody asked, but a graph's capture wants every stream back.
            torch.cuda.current_stream(W.device).wait_stream(stream)


def normalised(norm: SpectralNorm, W: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the normalised weight in `dtype`; a training step improves the norm's u first."""
    made, done = _begun.pop((norm, dtype), (None, None))
    if made is None:
        return _made(norm, W, dtype)
    if done is not None:
        present = torch.cuda.current_stream(made.device)
        present.wait_event(done)
        # Or the stream beside would take the memory again, for a gradient, once Python has let go of it: before the last pass over it is run.
        made.record_stream(present)
    return made
