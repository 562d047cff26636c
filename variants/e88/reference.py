"""E88 in plain PyTorch: a loop over time, any floating dtype. The truth that the kernel is measured against."""

import torch
import torch.nn.functional as F

DRAWS = ("typical", "saturated", "extreme")


def exact(name, x):
    """Leave x as it is: no rounding at the point `name`."""
    return x


def unit(x):
    """Scale the last axis to unit length: x (|x|^2 + 1e-12)^(-1/2), smooth at zero."""
    return x * (x.square().sum(-1, keepdim=True) + 1e-12).rsqrt()


def forward(qkv, decay_logit, A_log, dt_bias, decay_bias, write_logit, gate, s0, *, constants, at=exact):
    """Run the gated delta rule.

    S[t] = phi(lambda[t] S[t-1] + b[t] (v[t] - S[t-1] k[t]) k[t]^T),   y[t] = act(g[t]) * (S[t] q[t])

    Args:
        qkv: raw projections, [B, T, 2 H N + H M] (q of all heads, then k, then v; without v if TIED).
        decay_logit: [B, T, H] or None. A_log, dt_bias, decay_bias: [H] or None.
        write_logit: [B, T, H] or None. gate: [B, T, H M] or None.
        s0: state before the first step, [B, H, M, N]; the computation runs in its dtype.
        constants: see binding.py.
        at: rounding points; besides loads and stores the bf16 build's tanh.
    Returns:
        y [B, T, H M] in the dtype of qkv, and the last state.
    Source: README.md, equations 1 to 6 and 8.
    """
    B, T, _ = qkv.shape
    H, M, N = s0.shape[1:]
    x = qkv.to(s0.dtype)
    if constants["SILU"]:
        x = F.silu(x)
    q, k = (part.view(B, T, H, N) for part in (x[..., : H * N], x[..., H * N : 2 * H * N]))
    v = k if constants["TIED"] else x[..., 2 * H * N :].view(B, T, H, M)
    if constants["UNIT"]:
        q, k = unit(q), unit(k)
    decay = decays(decay_logit, A_log, dt_bias, decay_bias, (B, T, H), s0)
    write = torch.ones_like(decay) if write_logit is None else torch.sigmoid(write_logit.to(s0.dtype))
    s, ys = s0, []
    for t in range(T):
        key = k[:, t, :, None, :]
        delta = v[:, t] - (s * key).sum(-1)
        p = decay[:, t, :, None, None] * s + (write[:, t, :, None] * delta)[..., None] * key
        s = p if constants["LINEAR"] else at("tanh", torch.tanh(p))
        ys.append((s * q[:, t, :, None, :]).sum(-1))
    y = torch.stack(ys, 1).reshape(B, T, H * M)
    if constants["GATE"]:
        y = y * (F.silu if constants["GATE"] == 1 else torch.sigmoid)(gate.to(s0.dtype))
    return y.to(qkv.dtype), s


def decays(logit, A_log, dt_bias, bias, shape, like):
    """Return lambda [B, T, H]: mamba, simple, constant or none, by which inputs exist."""
    if A_log is not None:
        # torch takes softplus(x) as x above the threshold, by default 20, where that is off by 2e-9: not exact in fp64.
        softplus = F.softplus(logit.to(like.dtype) + dt_bias, threshold=40.0)
        return torch.exp(-A_log.exp() * softplus)
    if logit is not None:
        return torch.sigmoid(logit.to(like.dtype))
    return like.new_ones(shape) if bias is None else torch.sigmoid(bias).expand(shape)


def weight_gradients(t):
    """Add up over the batch what the kernel summed over time. Takes all tensors by name, returns `d_<input>`."""
    return {f"d_{name}": t[f"{name}_part"].sum(0) for name in ("A_log", "dt_bias", "decay_bias") if f"{name}_part" in t}


def draw(kind, shapes, constants, randn):
    """Draw inputs for verify, in fp64.

    Args:
        kind: `typical` (as at initialisation), `saturated` (large projections: tanh and gates near their limits) or `extreme`
            (gates and decays at 0 and 1, zero and tiny keys).
        shapes: name -> shape of every present input.
        constants: compile-time constants.
        randn: `randn(*shape)` gives fp64 normals.
    """
    scale = {"typical": 1.0, "saturated": 4.0, "extreme": 16.0}[kind]
    x = {name: randn(*shape) for name, shape in shapes.items()}
    for name in {"decay_logit", "decay_bias", "write_logit", "gate"} & set(x):
        x[name] = x[name] * scale
    if "A_log" in x:
        x["A_log"] = 1.0 + x["A_log"]
        x["dt_bias"] = x["dt_bias"] - 3.0
    x["s0"] = torch.tanh(x["s0"] * (0.5 * scale)) if kind != "typical" else 0.5 * x["s0"]
    if kind == "saturated":
        x["qkv"] = 3.0 * x["qkv"]
    if kind == "extreme":
        x["qkv"] = x["qkv"] * torch.where(randn(*shapes["qkv"][:2], 1) > 0, 2.0, 0.5)
        x["qkv"][:, ::3] = 0.0
        x["qkv"][:, 1::5] *= 1e-5
    return x
