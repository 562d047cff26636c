"""Option liveness: flipping an option changes the layer's output given common parameters, and the kernel follows.

An option declared with `same` must change nothing, and what it selects must be as right as the kernel.
"""

import copy
import dataclasses
import time

import torch

from elmanctl.errors import UserError
from elmanctl.options import show
from elmanctl.variant import Spec
from elmanctl.verify.layers import BadGradient, compare, evaluate, forward, has_kernel, settings, smallest_dim, truth_of
from elmanctl.verify.policy import LIVE
from elmanctl.verify.run import Check, judged

STEPS, ROUNDINGS = 6, 4
INSTEAD_OF_ZERO = 24  # a size of 0 stands for a default that follows from others: small, and hardly ever this one


def flips(spec: Spec) -> list[tuple[str, object]]:
    """Return (option, other value) for every option that is no size in the name."""
    found = []
    for f in dataclasses.fields(spec.config):
        if "tag" in f.metadata:
            continue
        value, choices = getattr(spec.config, f.name), f.metadata.get("choices")
        if choices:
            found += [(f.name, c) for c in choices if c != value]
        elif isinstance(value, bool):
            found.append((f.name, not value))
        elif isinstance(value, (int, float)):
            found.append((f.name, value * 2 or type(value)(INSTEAD_OF_ZERO)))
    return found


def larger(spec: Spec) -> list[tuple[str, object]]:
    """Return (size in the name, twice its value) for each: what mixes heads does nothing to one head."""
    tagged = (f.name for f in dataclasses.fields(spec.config) if "tag" in f.metadata)
    return [(name, 2 * getattr(spec.config, name)) for name in tagged]


def legal(spec: Spec, changes: dict[str, object]) -> Spec | None:
    """Return the configuration with options changed, or None where a rule forbids it."""
    other = Spec(spec.variant, dataclasses.replace(spec.config, **changes))
    try:
        smallest_dim(other)
    except UserError:
        return None
    return other


def check_option(spec: Spec, name: str, value: object, where: str, device: str, seed: int) -> Check:
    """Require that an option changes the output given common parameters, and that the kernel follows it.

    An option without effect alone is tried together with each other one, then with each size doubled: an activation matters only where its
    gate exists, a mixture of heads only where there are two.
    """
    started, id = time.monotonic(), f"option {name}={show(value)}"
    tried = []
    for context in ({}, *({n: v} for n, v in (*flips(spec), *larger(spec)) if n != name)):
        base, other = (spec if not context else legal(spec, context)), legal(spec, {**context, name: value})
        if base is None or other is None:
            continue
        beside = "".join(f" beside {n}={show(v)}" for n, v in context.items())
        effect = _effect(base, other, seed)
        tried.append(beside)
        if spec.config.__dataclass_fields__[name].metadata.get("same"):
            if effect:
                text = f"the output changes, although the option is declared to keep it: {effect}"
                return Check(id, "layer", False, message=text, seconds=time.monotonic() - started)
            effect = "computes the same"
        if effect:
            # A second sub-layer is unaffected by an option of the first, so any one suffices.
            rows = []
            for s in settings(other, seed, STEPS):
                try:
                    rows += compare(s, evaluate(s, where, torch.float32, device), *truth_of(s, ROUNDINGS))
                except BadGradient as error:
                    message = f"{other.name}: {error}"
                    return Check(id, "layer", False, message=message, seconds=time.monotonic() - started)
            check = judged(id, "layer", rows, started)
            check.message = effect + beside
            return check
    if not tried:
        return Check(id, "layer", True, message="not allowed here by the rules", seconds=time.monotonic() - started)
    text = "the output does not change: the option is not connected"
    return Check(id, "layer", False, message=text, seconds=time.monotonic() - started)


def _effect(base: Spec, other: Spec, seed: int) -> str:
    """Return in words how two configurations differ in output given common parameters, or nothing."""
    for a, b in zip(settings(base, seed, STEPS), settings(other, seed, STEPS), strict=True):
        mine, theirs = a.layer.state_dict(), b.layer.state_dict()
        common = [k for k in theirs if k in mine and mine[k].shape == theirs[k].shape]
        resized = [k for k in theirs if k in mine and mine[k].shape != theirs[k].shape]
        fresh = {k: t.clone() for k, t in theirs.items()}
        b.layer.load_state_dict({**fresh, **{k: mine[k] for k in common}})
        b.x = a.x if a.x.shape == b.x.shape else b.x
        b.state = {k: a.state[k] if k in a.state and a.state[k].shape == t.shape else t for k, t in b.state.items()}
        where = "reference" if has_kernel(a) else "library"
        with torch.no_grad():
            y, z = (forward(copy.deepcopy(s.layer), s.x, s.state, where)[0] for s in (a, b))
        if y.shape != z.shape or (y - z).norm() > LIVE * y.norm():
            return "changes sizes and output" if resized else "changes the output"
        if any(not torch.equal(fresh[k], mine[k]) for k in common if k in dict(b.layer.named_parameters())):
            return "changes the initialisation only"
    return ""
