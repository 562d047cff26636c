"""Less memory for more time: layers that run again in the backward pass, and a loss whose logits are never whole.

* Both give what the plain computation gives: a layer's second run sees the same input, random numbers and buffers as its first.
* Both can be captured in a CUDA graph, as long as no checkpointed layer draws random numbers: a graph cannot draw the same ones twice.
"""

import contextlib

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from elmanctl.norms import implementation


def recomputed(layer: nn.Module, x: Tensor, state):
    """Run a layer and keep its input alone; the backward pass runs it a second time.

    Args:
        layer: takes x and state and returns y and the state after the last step, as every layer of a variant does.
        x: [B, T, dim]; state: the layer's, or None.
    Raises:
        RuntimeError: inside a CUDA graph, for a layer that draws random numbers.
    """
    if not torch.is_grad_enabled():
        return layer(x, state)
    captured = x.is_cuda and torch.cuda.is_current_stream_capturing()
    if captured and getattr(layer, "draws_random_numbers", True):
        raise RuntimeError(
            f"{type(layer).__name__} is checkpointed and draws random numbers, which a graph cannot repeat"
        )
    generator = None if captured else _generator_state(x.device)
    result = checkpoint(
        layer,
        x,
        state,
        use_reentrant=False,
        preserve_rng_state=not captured,
        context_fn=lambda: (contextlib.nullcontext(), _AsBefore(layer)),
    )
    if not captured:  # steps run before a capture, so that a captured one knows
        layer.draws_random_numbers = not generator.equal(_generator_state(x.device))
    return result


def _generator_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


class _AsBefore:
    """Gives a layer's buffers the values that they have now, for the time of a `with` block; some layers update them as they run."""

    def __init__(self, layer: nn.Module):
        self.buffers = list(layer.buffers())
        self.before = [b.clone() for b in self.buffers]

    def __enter__(self) -> None:
        self.after = [b.clone() for b in self.buffers]
        self._put(self.before)

    def __exit__(self, *error) -> None:  # a second run ends by an exception once it has made all that is needed
        self._put(self.after)

    @torch.no_grad()
    def _put(self, values: list[Tensor]) -> None:
        for buffer, value in zip(self.buffers, values, strict=True):
            buffer.copy_(value)


def chunked_loss(x: Tensor, weight: Tensor, targets: Tensor, chunks: int) -> Tensor:
    """Return the mean cross-entropy of a linear head, in fp32 (fp64 for fp64 inputs).

    Args:
        x: [N, D], in the compute dtype; weight: [V, D]; targets: [N], of type int64.
        chunks: parts in which the positions are taken, and again in the backward pass; at no time are there logits of more than one.
    """
    if chunks == 1:
        return _cross_entropy(F.linear(x, weight), targets, mean=True)
    parts = zip(x.split(-(-len(x) // chunks)), targets.split(-(-len(x) // chunks)), strict=True)
    sums = [
        checkpoint(_loss_sum, part, weight, wanted, use_reentrant=False, preserve_rng_state=False)
        for part, wanted in parts
    ]
    return torch.stack(sums).sum() / len(x)


def _loss_sum(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):  # whose one cast of the weight would sum its gradient in bf16
        logits = F.linear(x, weight.to(x.dtype))
        return _cross_entropy(logits, targets, mean=False)


def _cross_entropy(logits: Tensor, targets: Tensor, mean: bool) -> Tensor:
    """Return the cross-entropy of logits [N, V] in fp32, or in fp64 where they are; by Triton's kernels where there are such and no compiler looks."""
    plain = torch.compiler.is_compiling() or logits.dtype == torch.float64
    if not plain and implementation(logits.device) == "triton":
        from elmanctl.loss_kernels import cross_entropy

        return cross_entropy(logits, targets, mean)
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(wide, targets, reduction="mean" if mean else "sum")
