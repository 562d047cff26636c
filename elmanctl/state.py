"""Recurrent state as a tree: lists, tuples and dicts of tensors, None where a layer has none.

The language model's state is a list with one tree a layer, batch first; nothing here knows what a layer keeps in it.
"""

from collections.abc import Callable
from typing import Any

import torch


def map_tensors(function: Callable, tree: Any, *others: Any) -> Any:
    """Return the tree with each tensor replaced by `function(tensor, *the tensors at its place in others)`."""
    if isinstance(tree, torch.Tensor):
        return function(tree, *others)
    if isinstance(tree, dict):
        return {key: map_tensors(function, value, *(o[key] for o in others)) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(map_tensors(function, *values) for values in zip(tree, *others, strict=True))
    if tree is None:
        return None
    raise TypeError(f"A state holds tensors in lists, tuples and dicts; found {type(tree).__name__}.")


def detach(state: Any) -> Any:
    """Return the state cut off from the graph that made it."""
    return map_tensors(torch.Tensor.detach, state)


def reset_rows(state: Any, initial: Any, mask: torch.Tensor) -> Any:
    """Return the state with the rows of `mask` [B] (bool) set to those of `initial`, a state of the same form."""

    def choose(now: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
        return torch.where(mask.view(-1, *[1] * (now.dim() - 1)), first, now)

    return map_tensors(choose, state, initial)


def flatten(state: Any, prefix: str = "state") -> dict[str, torch.Tensor]:
    """Return the tensors by path (`state.3.h`), for saving."""
    if isinstance(state, torch.Tensor):
        return {prefix: state}
    items = state.items() if isinstance(state, dict) else enumerate(state or ())
    return {name: tensor for key, value in items for name, tensor in flatten(value, f"{prefix}.{key}").items()}


def unflatten(like: Any, tensors: dict[str, torch.Tensor], prefix: str = "state") -> Any:
    """Return a state of the form of `like` with the tensors that `flatten` gave."""
    if isinstance(like, torch.Tensor):
        return tensors[prefix].to(like.device)
    if isinstance(like, dict):
        return {key: unflatten(value, tensors, f"{prefix}.{key}") for key, value in like.items()}
    if like is None:
        return None
    return type(like)(unflatten(value, tensors, f"{prefix}.{i}") for i, value in enumerate(like))
