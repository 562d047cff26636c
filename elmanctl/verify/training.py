"""Checks of a layer as training uses it: every parameter moves, and training mode computes what evaluation does."""

import copy
import dataclasses
import time

import torch
from torch import Tensor, nn

from elmanctl.spectral import SpectralNorm
from elmanctl.variant import Spec
from elmanctl.verify.layers import (
    ROWS,
    STEPS,
    BadGradient,
    Setting,
    compare,
    evaluate,
    forward,
    settings,
    smallest_dim,
    truth_of,
)
from elmanctl.verify.run import Check, same_bits
from elmanctl.verify.truth import seed_of

CHECKS = ("moves", "modes")
UPDATES, RATE = 3, 1e-3


def check_training(spec: Spec, what: str, where: str, device: str, seed: int) -> Check:
    """Check one of CHECKS on every sub-layer, in fp32 on backend `where`."""
    started, id = time.monotonic(), f"layer {what}"
    if what == "moves":
        ok, text = _moves(spec, where, device, seed)
    else:
        ok, text = _modes(spec, where, device, seed)
    return Check(id, "layer", ok, message=text, seconds=time.monotonic() - started)


def _moves(spec: Spec, where: str, device: str, seed: int) -> tuple[bool, str]:
    """Take a few steps of AdamW without weight decay from the initialisation as it is; name what stays or is not finite.

    A zero output projection keeps other gradients at zero for one step, not for three.
    """
    dim = smallest_dim(spec)
    with torch.random.fork_rng():
        torch.manual_seed(seed_of("layer moves", seed) % 2**63)
        layers = spec.layers(dim)
        x, target = torch.randn(2, ROWS, STEPS, dim).unbind(0)
    for layer, label in zip(layers, spec.variant.sublayers, strict=True):
        prefix = f"{label} " if len(layers) > 1 else ""
        layer.train().to(device)
        before = {n: p.detach().clone() for n, p in layer.named_parameters() if p.numel()}
        adamw = torch.optim.AdamW([p for p in layer.parameters() if p.numel()], lr=RATE, weight_decay=0.0)
        for _ in range(UPDATES):
            adamw.zero_grad()
            y, _last = forward(layer, x.to(device), None, where)
            (y - target.to(device)).square().mean().backward()
            adamw.step()
        after = dict(layer.named_parameters())
        if broken := [n for n in before if not after[n].isfinite().all()]:
            return False, f"{prefix}after {UPDATES} AdamW steps {', '.join(broken)} is not finite"
        if still := [n for n in before if torch.equal(before[n], after[n])]:
            return False, f"{prefix}{UPDATES} AdamW steps do not move {', '.join(still)}"
    return True, ""


def _modes(spec: Spec, where: str, device: str, seed: int) -> tuple[bool, str]:
    """Compare training with evaluation: y, last state and gradients, given the buffers that a training step leaves.

    Only spectral normalisation may update buffers; those are named. A kernel's layer must agree bit for bit, a library's, which
    may choose other routines in training, within the rule.
    """
    said = ""
    for s in settings(spec, seed):
        prefix = f"{s.label} " if len(spec.variant.sublayers) > 1 else ""
        moved = _moved_buffers(s, where, device)
        own = {f"{path}.u" for path, module in s.layer.named_modules() if isinstance(module, SpectralNorm)}
        if stray := set(moved) - own:
            return False, f"{prefix}training updates {', '.join(sorted(stray))}, which is not spectral normalisation's"
        training = dataclasses.replace(s, layer=copy.deepcopy(s.layer).train())
        evaluation = dataclasses.replace(s, layer=_with_buffers(s.layer, moved))
        try:
            trained = evaluate(training, where, torch.float32, device)
            if where == "library":
                bad = [r.tensor for r in compare(s, trained, *truth_of(evaluation)) if not r.ok]
            else:
                evaluated = evaluate(evaluation, where, torch.float32, device)
                bad = [n for n in trained if not same_bits(trained[n], evaluated[n])]
        except BadGradient as error:
            return False, f"{prefix}{error}"
        if bad:
            return False, f"{prefix}training mode differs from evaluation in {', '.join(bad)}"
        if moved:
            said = f"equal, given that training updates {', '.join(sorted(moved))} (spectral normalisation)"
    return True, said


def _moved_buffers(s: Setting, where: str, device: str) -> dict[str, Tensor]:
    """Return the buffers that one forward pass in training mode changes, with their new values."""
    layer = copy.deepcopy(s.layer).float().to(device).train()
    before = {n: b.clone() for n, b in layer.named_buffers()}
    with torch.no_grad():
        forward(layer, s.x.float().to(device), {k: t.float().to(device) for k, t in s.state.items()}, where)
    return {n: b for n, b in layer.named_buffers() if not same_bits(b, before[n])}


def _with_buffers(layer: nn.Module, values: dict[str, Tensor]) -> nn.Module:
    layer = copy.deepcopy(layer)
    for name, buffer in layer.named_buffers():
        if name in values:
            buffer.copy_(values[name])
    return layer
