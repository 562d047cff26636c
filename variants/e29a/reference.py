"""E29a in plain PyTorch, README.md, equations 2 to 7. The truth that the kernel is measured against, and the per-step mode."""

import torch

from elmanctl.families import tape_reference as tape
from elmanctl.families.tape_reference import DRAWS, exact, weight_gradients

__all__ = ["DRAWS", "draw", "forward", "stepwise", "weight_gradients"]


def score(z, r, h):
    """Return q."""
    return z + r + h


def score_slopes(z, r, h):
    """Return the derivatives of q by z, r and h."""
    one = torch.ones_like(h)
    return one, one, one


def forward(xz, W, h0, tape0, *, constants=None, at=exact):
    """Run the recurrence; shapes in families/tape_reference.py."""
    return tape.run(score, xz, W, h0, tape0, at=at)


def stepwise(constants):
    """Return the per-step mode."""
    return tape.Stepwise(score, score_slopes, constants)


def draw(kind, shapes, constants, randn):
    """Draw inputs in fp64."""
    return tape.draw(kind, shapes, randn)
