"""Spectral normalisation by the programs of spectral_programs.py, of several weights of one shape at once: eight launches, and two for gradients.

* W^T u travels as rows whose sum it is, added up in a fixed order; vectors are divided by their length where they are read.
* With w = W^T u, v = w / (|w| + eps) and sigma = u^T W v = |w|^2 / (|w| + eps): the last product of spectral.py, W v, is not formed.
* All sums are fp32 whatever the device's settings for products; the same numbers in every run.
* `together` is for a model's forward pass: it makes the weights of all layers beside the first one's norm and projection, on a stream of
  its own, and `normalised` hands them out. Autograd takes the gradients back on that stream, beside the products that come after.
"""

import contextlib
from collections.abc import Iterator, Sequence

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from elmanctl.spectral import EPS, ITERATIONS, SpectralNorm
from elmanctl.spectral_programs import spectral_columns, spectral_dot, spectral_gradient, spectral_rows, spectral_scale

TOGETHER = 32 * 2**20  # bytes of weights that are taken at once: the L2 cache keeps them from one product to the next
TALL, DEEP = 64, 512  # rows of a tile of `spectral_columns`, and that a program of it adds up
SHORT, LONG = 16, 256  # rows of a program of `spectral_rows`, columns of its tile
MOST = 64  # weights that are taken at once: with three pointers each, a launch's arguments are 1.5 KB of the 4 KB that it may have
COLUMNS = 64
FLAT, SHARE, PROGRAMS = 4096, 4, 128

_made: dict[tuple[SpectralNorm, torch.dtype], Tensor] = {}
_streams: dict[torch.device, torch.cuda.Stream] = {}


class SpectralFunction(torch.autograd.Function):
    """SpectralNorm.forward of fp32 weights [rows, columns] with their buffers u on a GPU, in the dtype that their reader wants."""

    @staticmethod
    def forward(ctx, buffers: Sequence[Tensor], rho: float, iterations: int, dtype: torch.dtype, *Ws: Tensor):
        Ws, buffers, count = tuple(W.contiguous() for W in Ws), tuple(buffers), len(Ws)
        (rows, columns), like = Ws[0].shape, Ws[0]
        wide, parts = triton.next_power_of_2(rows), triton.cdiv(rows, DEEP)
        u, Wv, v, w_parts = (
            torch.empty(count, n, dtype=torch.float32, device=like.device)
            for n in (rows, rows, columns, parts * columns)
        )
        length, sigma = torch.empty(2, count, dtype=torch.float32, device=like.device)
        for number in range(iterations + 1):
            if number:
                spectral_rows[(triton.cdiv(rows, SHORT), count)](
                    Ws, w_parts, Wv, rows, columns, EPS, COUNT=count, PARTS=parts, SHORT=SHORT, LONG=LONG
                )
            spectral_columns[(triton.cdiv(columns, COLUMNS), parts, count)](
                Ws, buffers, Wv, w_parts, u, rows, columns, EPS,
                COUNT=count, UNIT=number == 0, WIDE=wide, TALL=TALL, DEEP=DEEP, COLUMNS=COLUMNS,
            )  # fmt: skip
        results = tuple(torch.empty(W.shape, dtype=dtype, device=W.device) for W in Ws)
        spectral_scale[(triton.cdiv(rows * columns, FLAT * SHARE), count)](
            Ws, results, buffers, u, w_parts, v, length, sigma, rows, columns, rho, EPS,
            COUNT=count, KEEP=iterations > 0, WIDE=wide, PARTS=parts, LONG=LONG, FLAT=FLAT, SHARE=SHARE,
        )  # fmt: skip
        ctx.save_for_backward(u, v, length, sigma, *Ws)
        ctx.rho = rho
        return results

    @staticmethod
    @once_differentiable
    def backward(ctx, *Gs: Tensor):
        u, v, length, sigma, *Ws = ctx.saved_tensors
        (rows, columns), count = Ws[0].shape, len(Ws)
        Gs, Ws, dWs = tuple(G.contiguous() for G in Gs), tuple(Ws), tuple(torch.empty_like(W) for W in Ws)
        dots = torch.empty(count, PROGRAMS, dtype=torch.float32, device=u.device)
        spectral_dot[(PROGRAMS, count)](Gs, Ws, dots, rows * columns, COUNT=count, FLAT=FLAT)
        spectral_gradient[(triton.cdiv(rows, TALL), triton.cdiv(columns, COLUMNS), count)](
            Gs, dWs, u, v, length, sigma, dots, rows, columns, ctx.rho, EPS,
            COUNT=count, PROGRAMS=PROGRAMS, ROWS=TALL, COLUMNS=COLUMNS,
        )  # fmt: skip
        return None, None, None, None, *dWs


def _apply(pairs: Sequence[tuple[SpectralNorm, Tensor]], dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Normalise weights whose norms have one rho and one mode."""
    norm = pairs[0][0]
    iterations = ITERATIONS if norm.training else 0
    return SpectralFunction.apply([n.u for n, _ in pairs], norm.rho, iterations, dtype, *(W for _, W in pairs))


def groups(pairs: Sequence[tuple[SpectralNorm, Tensor]]) -> list[list[tuple[SpectralNorm, Tensor]]]:
    """Divide weights into those that are taken at once: of one shape, rho and mode, at most MOST, and no more than TOGETHER bytes unless it is one."""
    found: dict[tuple, list[list[tuple[SpectralNorm, Tensor]]]] = {}
    for norm, W in pairs:
        lists = found.setdefault((W.shape, norm.rho, norm.training), [[]])
        if len(lists[-1]) >= max(1, min(MOST, TOGETHER // W.nbytes)):
            lists.append([])
        lists[-1].append((norm, W))
    return [group for lists in found.values() for group in lists]


def beside(device: torch.device) -> torch.cuda.Stream | None:
    """Return the stream of a GPU that `together` works on, which has waited for the present one; None where there are no streams."""
    if device.type != "cuda":
        return None
    if device not in _streams:
        _streams[device] = torch.cuda.Stream(device)
    stream = _streams[device]
    stream.wait_stream(torch.cuda.current_stream(device))
    return stream


@contextlib.contextmanager
def together(pairs: Sequence[tuple[SpectralNorm, Tensor]], dtype: torch.dtype) -> Iterator[None]:
    """Normalise the weights [rows, columns] that a forward pass inside will ask `normalised` for, in fp32, once each."""
    stream = beside(pairs[0][1].device) if pairs else None
    try:
        with torch.cuda.stream(stream):
            for group in groups(pairs):
                _made.update(zip(((norm, dtype) for norm, _ in group), _apply(group, dtype), strict=True))
        yield
    finally:
        _made.clear()
        if stream is not None:  # also where nobody asked for a weight: a graph's capture wants every stream back
            torch.cuda.current_stream(stream.device).wait_stream(stream)


def normalised(norm: SpectralNorm, W: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the normalised weight in `dtype`; a training step improves the norm's u first."""
    made = _made.pop((norm, dtype), None)
    if made is None:
        return _apply([(norm, W)], dtype)[0]
    if made.is_cuda:
        present = torch.cuda.current_stream(made.device)
        present.wait_stream(_streams[made.device])
        # Or the stream of its own would take the memory again, for a gradient, once Python has let go of it: before the last pass over it is run.
        made.record_stream(present)
    return made
