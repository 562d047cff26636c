"""E74 in plain PyTorch: one step for every form of the grid. The truth that the kernel is measured against."""

import torch
import torch.nn.functional as F

from elmanctl.families import matrix_reference as matrix
from elmanctl.families.matrix_reference import DRAWS, exact

from . import GATES, NONLINEARITIES, UPDATES, binding

__all__ = ["DRAWS", "draw", "forward", "weight_gradients"]

EPS = 1e-6


def forward(projected, keys, parameters, s0, *, constants, at=exact):
    """Run README.md, equations 2 to 6; shapes in binding.py."""
    B, T, _ = projected.shape
    H, M, N = s0.shape[1:]
    update, phi = UPDATES[constants["UPDATE"]], NONLINEARITIES[constants["PHI"]]
    gate, diagonal = GATES[constants["GATE"]], constants["DIAGONAL"]
    names = binding.vectors(constants)
    x = dict(zip(names, projected.to(s0.dtype).view(B, T, len(names), H, M).unbind(2), strict=True))
    p = dict(zip(binding.parameters(constants), [] if parameters is None else parameters.unbind(1), strict=True))
    if constants["LOW_RANK"]:
        q, k, *reader = keys.to(s0.dtype).view(B, T, constants["KEYS"], H, N).unbind(2)
        reader = reader[0] if reader else None
    else:
        q, k = x.get("q", x["k"]), matrix.unit(x["k"])
        reader = (x["z"] + p["z_bias"]) * k if "z" in x else k
    v = x.get("v", x.get("k"))

    # A diagonal has one column, which is multiplied by all of a vector where a matrix is multiplied by its columns.
    def read(s, key):
        return s[..., 0] * key if diagonal else matrix.read(s, key)

    def outer(u, key):
        return (u * key)[..., None] if diagonal else matrix.outer(u, key)

    def tanh(s):
        return at("tanh", torch.tanh(s))

    def weight(s, delta, t):
        if update == "retrieved_gate":
            return torch.sigmoid(x["write_logit"][:, t] + p["write_bias"])
        if update == "energy_gate":
            return torch.sigmoid(x["write_logit"][:, t] + p["write_bias"] + delta.square().mean(-1, keepdim=True))
        if gate in ("retain", "state"):
            seen = s[..., 0] if diagonal else s.square().sum(-1) / constants["RANK"]
            logit = p["gamma"] * seen + p["shift"]
            return torch.sigmoid(-logit if gate == "retain" else logit)
        return torch.ones((), dtype=s.dtype, device=s.device)

    def new(s, t):
        if update == "simple":
            return p["decay"][..., None] * s + outer(v[:, t], k[:, t])
        if update == "ema":
            a = torch.sigmoid(x["retain_logit"][:, t] + p["retain_bias"])
            return a[..., None] * s + outer((1 - a) * v[:, t], k[:, t])
        if update == "ntm":
            erase = torch.sigmoid(x["erase_logit"][:, t] + p["erase_bias"])
            write = torch.sigmoid(x["write_logit"][:, t] + p["write_bias"])
            return s * (1 - outer(erase, k[:, t])) + outer(write * v[:, t], k[:, t])
        delta = v[:, t] - read(s, reader[:, t])
        if update == "residual":
            return s + p["scale"][..., None] * tanh(outer(delta, k[:, t]))
        kept = p["decay"][..., None] * s if update == "fixed_decay" else s
        return kept + outer(weight(s, delta, t) * delta, k[:, t])

    def bounded(s):
        if phi == "tanh":
            return tanh(s)
        if phi == "linear":
            return s
        count = M * constants["RANK"] if phi == "rms" else 1
        return s / (torch.linalg.vector_norm(s, dim=(-2, -1), keepdim=True) / count**0.5 + EPS)

    s, readouts = s0, []
    for t in range(T):
        s = bounded(new(s, t))
        readouts.append(read(s, q[:, t]))
    r = torch.stack(readouts, 1)
    y = r * F.silu(x["gate_logit"] + p["gate_bias"] if gate == "input" else r)
    return y.flatten(2).to(projected.dtype), s


def weight_gradients(t):
    """Return the parameters' gradients: the kernel sums over time, torch over the batch."""
    return {"d_parameters": t["parameter_parts"].sum(0)} if "parameter_parts" in t else {}


TYPICAL = {"z_bias": (1.0, 0.2), "scale": (0.1, 0.05), "retain_bias": (2.0, 0.5), "gamma": (0.5, 0.3)}


def draw(kind, shapes, constants, randn):
    """Draw inputs in fp64: normal ones, keys of a low-rank state of about unit length.

    `saturated`: vectors three times as large, a state near its limits. `extreme`: zero and tiny keys, values of very
    different size, gates at 0 and 1, decays at 0 and 1, modulations of 0 and 2.
    """
    x = {name: randn(*shape) for name, shape in shapes.items()}
    B, T, _ = shapes["projected"]
    H, M, N = shapes["s0"][1:]
    names = binding.vectors(constants)
    raw = dict(zip(names, x["projected"].view(B, T, len(names), H, M).unbind(2), strict=True))
    if kind == "saturated":
        x["projected"] *= 3.0
    if constants["LOW_RANK"]:
        x["keys"] *= 0.35
    if "z" in raw:
        raw["z"] *= 0.3
    if kind == "extreme":
        key = x["keys"].view(B, T, constants["KEYS"], H, N)[:, :, 1] if constants["LOW_RANK"] else raw["k"]
        key[:, ::3] = 0.0
        key[:, 1::5] *= 1e-5
        raw.get("v", raw.get("k")).mul_(torch.where(randn(B, T, 1, 1) > 0, 3.0, 0.3))
        for name, vector in raw.items():
            if name.endswith("_logit"):
                vector *= 16.0
            if name == "z":
                vector.copy_(torch.where(vector > 0, 1.0, -1.0))
    for i, name in enumerate(binding.parameters(constants)):
        p = x["parameters"][:, i]
        mean, spread = TYPICAL.get(name, (0.0, 0.3))
        if name == "decay":
            p.copy_(torch.where(p > 0, 1.0, 0.0) if kind == "extreme" else torch.sigmoid(2.0 + p))
        elif name == "z_bias" and kind == "extreme":
            p.fill_(1.0)
        else:
            p.mul_(spread).add_(mean)
    x["s0"] = (
        torch.tanh(2.0 * x["s0"]) if kind != "typical" and NONLINEARITIES[constants["PHI"]] == "tanh" else 0.5 * x["s0"]
    )
    return x
