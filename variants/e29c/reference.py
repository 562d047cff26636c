"""E29c in plain PyTorch, README.md, equations 2 to 7. The truth that the kernel is measured against, and the per-step mode."""

import torch

from elmanctl.families import tape_reference as tape
from elmanctl.families.tape_reference import DRAWS, exact, weight_gradients

__all__ = ["DRAWS", "draw", "forward", "stepwise", "weight_gradients"]

CLIP = 20.0


def score(z, r, h, g_z, g_r, g_h, b_g):
    """Return q."""
    return (g_z * z + g_r * r + g_h * h + b_g).clamp(-CLIP, CLIP)


def score_slopes(z, r, h, g_z, g_r, g_h, b_g):
    """Return the derivatives of q by each argument: none where it is clipped."""
    inside = ((g_z * z + g_r * r + g_h * h + b_g).abs() < CLIP).to(h.dtype)
    return tuple(inside * slope for slope in (g_z, g_r, g_h, z, r, h, torch.ones_like(h)))


def forward(xz, W, h0, tape0, gate, *, constants=None, at=exact):
    """Run the recurrence; shapes in families/tape_reference.py."""
    return tape.run(score, xz, W, h0, tape0, gate, at=at)


def stepwise(constants):
    """Return the per-step mode."""
    return tape.Stepwise(score, score_slopes, constants)


def draw(kind, shapes, constants, randn):
    """Draw inputs in fp64; where z is large the score is clipped."""
    return tape.draw(kind, shapes, randn)
