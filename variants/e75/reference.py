"""E75 in plain PyTorch: a loop over time, any floating dtype. The truth that the kernel is measured against."""

import torch
import torch.nn.functional as F

DRAWS = ("typical", "saturated", "extreme")


def exact(name, x):
    """Leave x as it is: no rounding at the point `name`."""
    return x


def forward(qkvb, beta_bias, A_log, s0, *, constants, at=exact):
    """Run the gated delta rule and its self-gated readout.

    S[t] = phi(diag(beta[t]) S[t-1] + (v[t] - S[t-1] k[t]) k[t]^T),   r[t] = S[t] q[t],   y[t] = r[t]^2 sigmoid(r[t])

    Args:
        qkvb: raw projections, [B, T, 4 H N]: q of all heads, then k, v and the logits of beta.
        beta_bias: added to the logits of beta, [H, N].
        A_log: logarithm of the rates of the log-space gate, [H, N]; None where beta is a sigmoid.
        s0: state before the first step, [B, H, N, N] (value rows, key columns); the computation runs in its dtype.
        constants: see binding.py.
        at: rounding points; besides loads and stores the bf16 build's tanh.
    Returns:
        y [B, T, H N] in the dtype of qkvb, and the last state.
    Source: README.md, equations 2 to 5.
    """
    B, T, _ = qkvb.shape
    H, N = beta_bias.shape
    q, k, v, logit = qkvb.to(s0.dtype).view(B, T, 4, H, N).unbind(2)
    k = k * (k.square().sum(-1, keepdim=True) + 1e-12).rsqrt()
    beta = forget(logit + beta_bias, A_log)
    s, readouts = s0, []
    for t in range(T):
        key = k[:, t, :, None, :]
        delta = v[:, t] - (s * key).sum(-1)
        p = beta[:, t, :, :, None] * s + delta[..., None] * key
        s = p if constants["LINEAR"] else at("tanh", torch.tanh(p))
        readouts.append((s * q[:, t, :, None, :]).sum(-1))
    r = torch.stack(readouts, 1).reshape(B, T, H * N)
    return (r.square() * torch.sigmoid(r)).to(qkvb.dtype), s


def forget(z, A_log):
    """Return beta [B, T, H, N] from biased logits z."""
    if A_log is None:
        return torch.sigmoid(z)
    # torch takes softplus(x) as x above the threshold, by default 20, where that is off by 2e-9: not exact in fp64.
    return torch.exp(-A_log.exp() * F.softplus(z, threshold=40.0))


def weight_gradients(t):
    """Add up over the batch what the kernel summed over time. Takes all tensors by name, returns `d_<input>`."""
    return {f"d_{name}": t[f"{name}_part"].sum(0) for name in ("beta_bias", "A_log") if f"{name}_part" in t}


def draw(kind, shapes, constants, randn):
    """Draw inputs for verify, in fp64.

    Args:
        kind: `typical` (as at initialisation), `saturated` (large projections: the states' tanh near its limits) or `extreme`
            (forget gates at 0 and 1, zero and tiny keys).
        shapes: name -> shape of every present input.
        constants: compile-time constants.
        randn: `randn(*shape)` gives fp64 normals.
    """
    x = {name: randn(*shape) for name, shape in shapes.items()}
    B, T, width = shapes["qkvb"]
    x["beta_bias"] = 2.0 + 0.5 * x["beta_bias"]
    if "A_log" in x:
        x["A_log"] = 1.5 + 0.5 * x["A_log"]
        x["beta_bias"] -= 5.0
    x["s0"] = 0.5 * x["s0"] if kind == "typical" else torch.tanh(2.0 * x["s0"])
    if kind == "saturated":
        x["qkvb"] = 3.0 * x["qkvb"]
    if kind == "extreme":
        _, k, v, logit = x["qkvb"].view(B, T, 4, width // 4).unbind(2)
        k[:, ::3] = 0.0
        k[:, 1::5] *= 1e-5
        logit *= 16.0
        v *= torch.where(randn(B, T, 1) > 0, 3.0, 0.3)
    return x
