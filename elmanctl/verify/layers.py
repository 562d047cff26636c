"""Checks of a whole layer: against its own reference in fp64, causality, pieces, rows, and a gradient for every parameter.

* Truth is the same layer in fp64 on the reference backend, whose gradients must be its derivatives (derivative.py); its floor is fp32 noise on
  every operation, as in the rule for kernels.
* The checked layer runs in fp32 on the kernel's backend (`host` or `cuda`), a baseline on its library.
* Parameters are disturbed first: a layer with a zero output projection would give every other parameter a zero gradient.
"""

import contextlib
import copy
import dataclasses
import importlib.util
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from elmanctl.errors import UserError
from elmanctl.variant import Spec
from elmanctl.verify import derivative
from elmanctl.verify.policy import ACCUMULATION, LAYER_ROUNDINGS
from elmanctl.verify.rounding import TINY, UNIT, Rounding
from elmanctl.verify.run import Check, judged, same_bits
from elmanctl.verify.tolerance import Row, judge
from elmanctl.verify.truth import seed_of

ROWS, STEPS, WIDTHS = 2, 9, range(32, 1025, 16)
PROPERTIES = ("truth", "split", "tokens", "causality", "rows")
VACUOUS = 0.01  # of a tensor's size; noise of fp32 moves those of every shipped layer by at most 1.2e-4
CUTS = {"split": (STEPS // 2,), "tokens": tuple(range(1, STEPS))}


@dataclass
class Setting:
    """One sub-layer with inputs: x [B, T, dim], first state, and gradients for y and the last state, all fp64 on the CPU."""

    layer: nn.Module
    label: str
    x: Tensor
    state: dict[str, Tensor]
    seed: int


def smallest_dim(spec: Spec) -> int:
    """Return the smallest width from 32 up that breaks no hard rule."""
    for dim in WIDTHS:
        with contextlib.suppress(UserError):
            spec.check(dim, relaxed=("dim",))
            return dim
    spec.check(WIDTHS[-1], relaxed=("dim",))
    raise UserError(f"{spec.name}: no width up to {WIDTHS[-1]} passes its rules.")


def settings(spec: Spec, seed: int, steps: int = STEPS) -> list[Setting]:
    """Build the sub-layers in fp64, with disturbed parameters and a non-zero first state."""
    dim, found = smallest_dim(spec), []
    with torch.random.fork_rng():
        torch.manual_seed(seed_of("layer", seed) % 2**63)
        layers = spec.layers(dim)
        for layer, label in zip(layers, spec.variant.sublayers, strict=True):
            layer.eval()
            with torch.no_grad():
                for p in layer.parameters():
                    p.add_(0.3 * torch.randn_like(p) * p.std(correction=0).clamp(min=0.1))
            layer.double()
            state = layer.initial_state(ROWS, torch.device("cpu"), torch.float64)
            state = {k: t.double() + 0.5 * torch.randn(t.shape, dtype=torch.float64) for k, t in state.items()}
            found.append(Setting(layer, label, torch.randn(ROWS, steps, dim, dtype=torch.float64), state, seed))
    for s in found:  # inputs and parameters are numbers that fp32 holds
        s.x, s.state = s.x.float().double(), {k: t.float().double() for k, t in s.state.items()}
        s.layer.float().double()
    return found


@contextlib.contextmanager
def backend(name: str):
    """Run recurrences on `reference`, `host` or `cuda`; `library` changes nothing."""
    if name == "library":
        yield
        return
    from elmanctl import ops

    with ops.using(name):
        yield


def forward(layer, x, state, where: str):
    """Run a layer from a state, on the backend `where`; returns y and the last state."""
    with backend(where):
        return layer(x, state)


def evaluate(
    s: Setting, where: str, dtype: torch.dtype, device: str = "cpu", cuts: Sequence[int] = (), wrap=None
) -> dict[str, Tensor]:
    """Return y, last state, and gradients of x, first state and parameters, from random output gradients.

    Args:
        cuts: where to cut the sequence into pieces that carry the state.
        wrap: called with the layer; returns what runs in its place, for example compiled.
    """
    layer = copy.deepcopy(s.layer).to(dtype).to(device)
    inputs = {n: t.to(device, dtype).requires_grad_() for n, t in inputs_of(s).items()}
    results = run(wrap(layer) if wrap else layer, inputs, where, cuts)
    live = {n: t for n, t in results.items() if t.requires_grad}
    wanted = {**inputs, **dict(layer.named_parameters())}
    found = torch.autograd.grad(
        list(live.values()), list(wanted.values()), list(upstream_of(s, live).values()), allow_unused=True
    )
    results |= {f"d_{n}": g for n, g in zip(wanted, found, strict=True) if g is not None}
    missing = [n for n, g in zip(wanted, found, strict=True) if g is None and wanted[n].numel()]
    if missing:
        raise BadGradient(f"no gradient reaches {', '.join(missing)}")
    return {n: t.detach().cpu() for n, t in results.items()}


def inputs_of(s: Setting) -> dict[str, Tensor]:
    """Return what a layer is run on, by name."""
    return {"x": s.x, **{f"first {k}": t for k, t in s.state.items()}}


def run(layer, inputs: Mapping[str, Tensor], where: str, cuts: Sequence[int] = ()) -> dict[str, Tensor]:
    """Run a layer over the sequence, cut into pieces that carry the state; return y and the last state."""
    x, last = inputs["x"], {n.removeprefix("first "): t for n, t in inputs.items() if n != "x"}
    pieces = []
    for low, high in zip([0, *cuts], [*cuts, x.shape[1]], strict=True):
        piece, last = forward(layer, x[:, low:high], last, where)
        pieces.append(piece)
    return {"y": torch.cat(pieces, 1) if cuts else pieces[0], **{f"state {k}": t for k, t in last.items()}}


def upstream_of(s: Setting, live: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a random gradient for each of a layer's results."""
    generator = torch.Generator().manual_seed(seed_of("gradients", s.seed))
    return {n: torch.randn(t.shape, generator=generator).to(t.device, t.dtype) for n, t in live.items()}


class BadGradient(Exception):
    """Inputs or parameters that no gradient reaches, or one that is not the derivative."""


def truth_of(s: Setting, roundings: int = LAYER_ROUNDINGS) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return the truth in fp64 and the errors of fp32 noise, by name.

    Raises:
        BadGradient: where the truth's own gradients are not the derivatives of its results.
    """
    where = "reference" if has_kernel(s) else "library"
    truth = evaluate(s, where, torch.float64)
    _derivatives(s, where, truth)
    errors = {name: [] for name in truth}
    for i in range(roundings):
        with Rounding(None, "float32", seed_of(f"rounding {i}", s.seed)) as rounding:
            rounded = evaluate(s, where, torch.float64)
            rounded = {n: rounding.round(t.double()) for n, t in rounded.items()}
        for name, t in rounded.items():
            errors[name].append((t - truth[name]).numpy())
    return {n: t.numpy() for n, t in truth.items()}, {n: np.stack(e) for n, e in errors.items()}


def _derivatives(s: Setting, where: str, truth: dict[str, Tensor]) -> None:
    runs = (lambda layer, inputs: run(layer, inputs, where)), (lambda live: upstream_of(s, live))
    if bad := derivative.wrong(s.layer, inputs_of(s), *runs, truth, seed_of("directions", s.seed)):
        raise BadGradient(
            f"the gradient of {', '.join(way.text() for way in bad)} is not the derivative of what the layer itself computes in fp64: a backward "
            "pass that is written by hand is wrong, or a value is taken for a constant that detach() does not mark as one"
        )


def has_kernel(s: Setting) -> bool:
    """Return whether the layer's folder declares a kernel."""
    return importlib.util.find_spec(f"{s.layer.__module__.rpartition('.')[0]}.binding") is not None


def compare(s: Setting, got: dict[str, Tensor], truth, errors) -> list[Row]:
    """Judge a layer's results; a parameter whose gradient is zero, or not finite, fails."""
    rows = []
    unit = ACCUMULATION * UNIT["float32"] * s.x.shape[1] ** 0.5
    parameters = {f"d_{n}" for n, _ in s.layer.named_parameters()}
    for name, value in truth.items():
        row = judge(
            name, _axes(name, value.ndim), got[name].double().numpy(), value, errors[name], unit, TINY["float32"]
        )
        if name in parameters and not got[name].any():
            row = dataclasses.replace(row, ratio=float("inf"), group="zero: the parameter is dead")
        if np.square(errors[name]).mean() > VACUOUS**2 * np.square(value).mean() > 0:
            row = dataclasses.replace(
                row, ratio=float("inf"), group="noise above 1 % of it: its limit could hardly fail"
            )
        rows.append(row)
    return rows


def _axes(name: str, ndim: int) -> tuple[str, ...]:
    if name in ("y", "d_x"):
        return ("B", "T", "channel")
    if name.startswith(("state ", "d_first ")):
        return ("B", *(f"axis{i}" for i in range(1, ndim)))
    return ("row", "column")[:ndim] if ndim <= 2 else tuple(f"axis{i}" for i in range(ndim))


def check_layer(spec: Spec, what: str, where: str, device: str, seed: int) -> Check:
    """Check one of PROPERTIES, or `gradients`, on every sub-layer of a configuration, in fp32 on backend `where`."""
    started, id, rows = time.monotonic(), f"layer {what}", []
    for s in settings(spec, seed):
        prefix = f"{s.label} " if len(spec.variant.sublayers) > 1 else ""
        try:
            if what in ("causality", "rows", "gradients"):
                text = _dead(s, where, device) if what == "gradients" else _independent(s, where, device, what)
                if text:
                    return Check(id, "layer", False, message=prefix + text, seconds=time.monotonic() - started)
                continue
            got = evaluate(s, where, torch.float32, device, CUTS.get(what, ()))
            judged_rows = compare(s, got, *truth_of(s))
        except BadGradient as error:
            return Check(id, "layer", False, message=prefix + str(error), seconds=time.monotonic() - started)
        rows += [dataclasses.replace(r, tensor=prefix + r.tensor) for r in judged_rows]
    return judged(id, "layer", rows, started)


def _dead(s: Setting, where: str, device: str) -> str:
    """Return which parameters get a gradient that is zero or not finite."""
    results = evaluate(s, where, torch.float32, device)
    named = {n: results[f"d_{n}"] for n, _ in s.layer.named_parameters()}
    bad = [n for n, g in named.items() if not g.any() or not g.isfinite().all()]
    return f"the gradient of {', '.join(bad)} is zero or not finite" if bad else ""


def _independent(s: Setting, where: str, device: str, what: str) -> str:
    """Return how y depends on what it must not: later steps, or other rows."""
    layer = copy.deepcopy(s.layer).float().to(device)
    x, state = s.x.float().to(device), {k: t.float().to(device) for k, t in s.state.items()}
    cut, changed = x.shape[1] // 2, x.clone()
    part = (slice(None), slice(cut, None)) if what == "causality" else (slice(0, 1),)
    kept = (slice(None), slice(0, cut)) if what == "causality" else (slice(1, None),)
    changed[part] = -0.5 * changed[part].flip(-1)
    with torch.no_grad():
        before, after = (forward(copy.deepcopy(layer), v, state, where)[0] for v in (x, changed))
    if same_bits(before[kept].contiguous(), after[kept].contiguous()):
        return ""
    if what == "causality":
        return f"y before step {cut} changes with the inputs from step {cut} on"
    return "y of row 1 changes with the input of row 0"
