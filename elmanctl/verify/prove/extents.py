"""How far a mistake reaches: all of it, 2 % of its size, one head only, the last chunk only."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from elmanctl.kernel import Kernel
from elmanctl.tensors import TensorSpec, evaluate

SMALL = 0.02
HEAD = 1  # the head that is damaged alone
EXTENTS = ("full", "2 %", "one head", "last chunk")


def head_dim(kernel: Kernel) -> str | None:
    """Return the run-time dimension whose indices never meet: `H`, else the last one besides B and T (a channel)."""
    others = [d for d in kernel.dims if d not in ("B", "T")]
    return "H" if "H" in others else (others[-1] if others else None)


def of_head(dims: tuple[str, ...], name: str, sizes: Mapping[str, int], index: int = HEAD) -> Tensor | None:
    """Return the mask, broadcastable to a tensor of these dimensions, of one head; None where it has no such dimension.

    An axis may hold the head inside: `4*H*N`, side by side as in `2*H*N+H*M`, and beside brackets as in `(4+2*P)*H*N`.
    """
    for axis, text in enumerate(dims):
        terms = [_parts(term, "*") for term in _parts(text, "+")]
        if not any(name in factors for factors in terms):
            continue
        parts = []
        for factors in terms:
            part = torch.zeros([int(evaluate(f, sizes)) for f in factors], dtype=torch.bool)
            if name in factors:
                part.select(factors.index(name), min(index, sizes[name] - 1)).fill_(True)
            parts.append(part.flatten())
        return torch.cat(parts).reshape([-1] + [1] * (len(dims) - axis - 1))
    return None


def _parts(text: str, symbol: str) -> list[str]:
    """Split an expression at a symbol outside of brackets."""
    parts, depth = [""], 0
    for c in text.replace(" ", ""):
        depth += (c == "(") - (c == ")")
        if c == symbol and not depth:
            parts.append("")
        else:
            parts[-1] += c
    return parts


def of_last_chunk(dims: tuple[str, ...], T: int, chunk: int) -> Tensor | None:
    """Return the mask of the last chunk of time; None without time, or where one chunk is all there is."""
    if "T" not in dims or chunk >= T:
        return None
    axis = dims.index("T")
    return (torch.arange(T) >= (T - 1) // chunk * chunk).reshape([-1] + [1] * (len(dims) - axis - 1))


def confined(
    extent: str, spec: TensorSpec, right: Tensor, wrong: Tensor, sizes: Mapping[str, int], head: str | None, chunk: int
) -> Tensor | None:
    """Return one tensor with the damage confined to an extent, or None where the extent does not exist for it."""
    if extent == "full":
        return wrong
    if extent == "2 %":
        return (right.double() + SMALL * (wrong.double() - right.double())).to(right.dtype)
    mask = None
    if extent == "last chunk":
        mask = of_last_chunk(spec.dims, sizes.get("T", 1), chunk)
    elif head:
        mask = of_head(spec.dims, head, sizes)
    return None if mask is None else torch.where(mask, wrong, right)


def spread(
    kernel: Kernel, right: Mapping[str, Tensor], wrong: Mapping[str, Tensor], sizes: Mapping[str, int], chunk: int
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield (extent, damaged tensors by name) for each extent that exists.

    Args:
        right: what the right library returned.
        wrong: damaged tensors by name; others stay as they are.
    """
    head, specs = head_dim(kernel), specs_of(kernel)
    for extent in EXTENTS:
        damaged = {}
        for name, value in wrong.items():
            result = confined(extent, specs[name], right[name], value.to(right[name].dtype), sizes, head, chunk)
            if result is not None:
                damaged[name] = result
        if damaged:
            yield extent, damaged


def specs_of(kernel: Kernel) -> dict[str, TensorSpec]:
    """Return the declaration of every output and `d_<input>` by name."""
    outputs = {s.name: s for s in kernel.output_specs}
    return outputs | {f"d_{s.name}": TensorSpec(f"d_{s.name}", s.dims, s.kind, s.when) for s in kernel.input_specs}
