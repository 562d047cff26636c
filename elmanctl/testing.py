"""For the tests of a variant's folder: run its layer in pieces, take all its gradients on kernel and reference, and read a refusal.

Layers that change buffers in training, as a spectral norm does, are to be in evaluation: each run would have a weight of its own.
"""

import torch
from torch import Tensor

from elmanctl import ops
from elmanctl.errors import UserError
from elmanctl.plugins.registry import registry


def in_pieces(layer, x: Tensor, sizes: list[int]) -> tuple[Tensor, dict[str, Tensor]]:
    """Return a layer's outputs over pieces of x [B, T, dim], so many steps each with the state carried on, and the last state."""
    state, parts = None, []
    for piece in x.split(sizes, 1):
        y, state = layer(piece, state)
        parts.append(y)
    return torch.cat(parts, 1), state


def results(layer, x: Tensor, backend: str, cut: int = 0) -> dict[str, Tensor]:
    """Return y, the last state, and the gradients of x and of every parameter by name, on `reference` or `host`.

    Args:
        cut: steps of a first piece, after which the state is carried on; 0: all at once.
    """
    x = x.clone().requires_grad_()
    layer.zero_grad()
    with ops.using(backend):
        y, last = in_pieces(layer, x, [cut, x.shape[1] - cut] if cut else [x.shape[1]])
    found = {"y": y, **last}
    sum((t * torch.sin(torch.arange(t.numel(), dtype=t.dtype)).view(t.shape)).sum() for t in found.values()).backward()
    found |= {"d_x": x.grad, **{f"d_{name}": p.grad for name, p in layer.named_parameters()}}
    return {name: t.detach() for name, t in found.items()}


def check_pieces(layer) -> None:
    """Demand that seven steps in pieces of one, two and four give what they give at once, in fp64."""
    x = torch.randn(2, 7, layer.W_out.shape[0], dtype=torch.float64)
    whole, last = layer(x)
    y, state = in_pieces(layer, x, [1, 2, 4])
    torch.testing.assert_close(y, whole, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(state, last, rtol=1e-12, atol=1e-14)


def check_agreement(layer, x: Tensor, cut: int = 0) -> dict[str, Tensor]:
    """Demand that kernel and reference agree in fp64 in all that `results` gives; return it."""
    truth = results(layer, x, "reference", cut)
    torch.testing.assert_close(results(layer, x, "host", cut), truth, rtol=1e-10, atol=1e-12)
    return truth


def check_refusal(name: str, dim: int | None, texts: tuple[str, ...]) -> None:
    """Demand that a model's rules refuse it, at a width or at any, in a sentence with these texts."""
    try:
        registry().resolve(name).check(dim, relaxed=("dim",))
    except UserError as error:
        missing = [text for text in texts if text not in str(error)]
        assert not missing, f"{missing} not in: {error}"
    else:
        raise AssertionError(f"{name} at dim={dim} is allowed")
