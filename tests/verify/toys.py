"""Two toy recurrences with hand-written backward passes in torch, which stand for compiled kernels.

* Every tensor has a head axis and heads do not meet, so one evaluation over H heads is H independent seeds.
* `order` picks how sums are taken; a `fault` plants one mistake, scaled by a mask over (time, head).
"""

from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch

from elmanctl.kernel import Kernel
from elmanctl.verify import cases, truth

CHUNK = 8
ORDERS = ("sum", "blocks", "sequential", "fused")


class Dense:
    """h[t] = tanh(W h[t-1] + x[t]), y = h silu(h); the operand of the product and its gradient are rounded."""

    kernel = Kernel(
        package="toy_dense",
        inputs={"x": "B T H N", "W": "H N N", "h0": "B H N @acc"},
        outputs={"y": "B T H N", "h_last": "B H N @acc"},
        constants={"N": "width"},
        rounds={"operand": "forward", "d_pre": "backward"},
    )
    head_axis: ClassVar = {"x": 2, "W": 0, "h0": 1, "y": 2, "h_last": 1}
    FAULTS = (
        "dropped term", "late gradient", "transposed weight", "no last-state gradient", "no first-state gradient",
        "skipped tail", "stale", "zeros", "scaled", "clamped",
    )  # fmt: skip

    @staticmethod
    def draw(kind, shapes, constants, randn):
        tensors = {name: randn(*shape) for name, shape in shapes.items()}
        tensors["W"] *= 0.5 * shapes["W"][-1] ** -0.5
        return tensors

    @staticmethod
    def forward(x, W, h0, *, constants, at=lambda name, value: value):
        h, ys = h0, []
        for t in range(x.shape[1]):
            pre = at("d_pre", torch.einsum("hij,bhj->bhi", W, at("operand", h)) + x[:, t])
            h = torch.tanh(pre)
            ys.append(h * torch.nn.functional.silu(h))
        return torch.stack(ys, 1), h

    @staticmethod
    def run(p, order="sum", fault="", mask=None, seed=0):
        x, W, h0 = (p.inputs[name] for name in ("x", "W", "h0"))
        dy, d_last = p.gradients["d_y"], p.gradients["d_h_last"]
        T, scalar, acc = x.shape[1], x.dtype, h0.dtype
        m = torch.zeros(T, x.shape[2]) if mask is None else mask
        m = m.to(acc)[None, :, :, None]

        def off(name):
            return m if fault == name else torch.zeros_like(m)

        def low(v):
            return v.to(scalar).to(acc)

        x, W, dy = x.to(acc), W.to(acc), dy.to(acc)
        h, hs, ys, operands = h0, [], [], []
        for t in range(T):
            operands.append(low(h))
            h = torch.tanh(_dot(W[None], operands[-1][:, :, None, :], order, seed) + x[:, t])
            hs.append(h)
            ys.append(h * h.sigmoid() * h)
        y, last = torch.stack(ys, 1), h
        y = y * (1 - off("skipped tail") - off("zeros")) + off("stale") * (torch.roll(y, 1, 0) - y)
        carry, dxs, dW = d_last * (1 - off("no last-state gradient")[:, -1]), [], torch.zeros_like(W)
        for t in reversed(range(T)):
            h, s = hs[t], hs[t].sigmoid()
            late = off("late gradient")[:, t]
            dyt = (1 - late) * dy[:, t] + (late * dy[:, t + 1] if t + 1 < T else 0)
            inner = (1 - off("dropped small term")[:, t]) * h * h * s * (1 - s)
            dh = carry + dyt * (h * s + (1 - off("dropped term")[:, t]) * (h * s + inner))
            pre = low(dh * (1 - h * h))
            c = off("clamped")[:, t]
            pre = (1 - c) * pre + c * pre.clamp(-0.1, 0.1)
            dxs.append(pre)
            step = (pre[..., :, None] * operands[t][..., None, :]).sum(0)
            dW = dW + step
            if fault == "bf16 weight gradient":
                dW = torch.where(m[0, t, ..., None] > 0, dW.to(torch.bfloat16).to(acc), dW)
            swap = off("transposed weight")[:, t][..., None]
            back = (1 - swap) * W.transpose(1, 2)[None] + swap * W[None]
            carry = _dot(back, pre[:, :, None, :], order, seed)
        dx = torch.stack(dxs[::-1], 1) * (1 + off("scaled") - off("zeros") - off("skipped tail"))
        carry = carry * (1 - off("no first-state gradient")[:, 0])
        return {
            "y": y.to(scalar), "h_last": last, "d_x": dx.to(scalar), "d_W": dW.to(scalar), "d_h0": carry,
        }  # fmt: skip


class Delta:
    """S' = tanh(decay S + (v - S k) k^T), y = S' q on a matrix state in the accumulator."""

    kernel = Kernel(
        package="toy_delta",
        inputs={"q": "B T H N", "k": "B T H N", "v": "B T H N", "decay": "B T H @acc", "S0": "B H N N @acc"},
        outputs={"y": "B T H N", "S_last": "B H N N @acc"},
        constants={"N": "width"},
    )
    DRAWS = ("typical", "saturated", "extreme")
    head_axis: ClassVar = {"q": 2, "k": 2, "v": 2, "decay": 2, "S0": 1, "y": 2, "S_last": 1}
    FAULTS = (
        "dropped term", "late gradient", "no last-state gradient", "no first-state gradient", "transposed", "scaled",
        "other replay",
    )  # fmt: skip

    @staticmethod
    def draw(kind, shapes, constants, randn):
        tensors = {name: randn(*shape) for name, shape in shapes.items()}
        tensors["k"] = tensors["k"] / tensors["k"].norm(dim=-1, keepdim=True)
        scale = {"typical": 1.0, "saturated": 4.0, "extreme": 1.0}[kind]
        tensors["v"] *= scale
        tensors["decay"] = torch.sigmoid(tensors["decay"] * (8 if kind == "extreme" else 1) + 2)
        return tensors

    @staticmethod
    def forward(q, k, v, decay, S0, *, constants, at=lambda name, value: value):
        S, ys = S0, []
        for t in range(q.shape[1]):
            u = v[:, t] - torch.einsum("bhij,bhj->bhi", S, k[:, t])
            S = torch.tanh(decay[:, t, :, None, None] * S + u[..., None] * k[:, t, :, None, :])
            ys.append(torch.einsum("bhij,bhj->bhi", S, q[:, t]))
        return torch.stack(ys, 1), S

    @staticmethod
    def run(p, order="sum", fault="", mask=None, seed=0):
        scalar, acc = p.inputs["q"].dtype, p.inputs["S0"].dtype
        q, k, v, dy = (t.to(acc) for t in (*(p.inputs[n] for n in "qkv"), p.gradients["d_y"]))
        decay, S = p.inputs["decay"][..., None, None], p.inputs["S0"]
        T = q.shape[1]
        m = (torch.zeros(T, q.shape[2]) if mask is None else mask).to(acc)[None, :, :, None]

        def off(name, t):
            return m[:, t] if fault == name else torch.zeros_like(m[:, t])

        states, us, ys = [S], [], []
        for t in range(T):
            u = v[:, t] - _dot(S, k[:, t, :, None, :], order, seed)
            S = torch.tanh(decay[:, t] * S + u[..., None] * k[:, t, :, None, :])
            if fault == "bf16 carry":
                S = torch.where(m[:, t, ..., None] > 0, S.to(torch.bfloat16).to(acc), S)
            states.append(S)
            us.append(u)
            ys.append(_dot(S, q[:, t, :, None, :], order, seed))
        carry = p.gradients["d_S_last"] * (1 - off("no last-state gradient", T - 1)[..., None])
        grads = {name: [] for name in ("d_q", "d_k", "d_v", "d_decay")}
        for t in reversed(range(T)):
            S, new, u = states[t], states[t + 1], us[t]
            late = off("late gradient", t)
            dyt = (1 - late) * dy[:, t] + (late * dy[:, t + 1] if t + 1 < T else 0)
            dS = carry + dyt[..., None] * q[:, t, :, None, :]
            grads["d_q"].append(_dot(new.transpose(-1, -2), dyt[:, :, None, :], order, seed))
            replay = off("other replay", t)[..., None]
            P = dS * (1 - new * new) * (1 - replay) + dS * replay
            grads["d_decay"].append((P * S).sum((-1, -2)))
            du = _dot(P, k[:, t, :, None, :], order, seed)
            swap = off("transposed", t)[..., None]
            read = S.transpose(-1, -2) * (1 - swap) + S * swap
            dk = _dot(P.transpose(-1, -2), u[:, :, None, :], order, seed)
            dk = dk - (1 - off("dropped term", t)) * _dot(read, du[:, :, None, :], order, seed)
            grads["d_k"].append(dk * (1 + off("scaled", t)))
            grads["d_v"].append(du)
            carry = decay[:, t] * P - du[..., None] * k[:, t, :, None, :]
        carry = carry * (1 - off("no first-state gradient", 0)[..., None])
        result = {name: torch.stack(g[::-1], 1) for name, g in grads.items()}
        result = {n: g if n == "d_decay" else g.to(scalar) for n, g in result.items()}
        return {"y": torch.stack(ys, 1).to(scalar), "S_last": states[-1], "d_S0": carry} | result


def _dot(a, b, order, seed):
    """Sum a * b over the last axis in one of several orders."""
    n = max(a.shape[-1], b.shape[-1])
    if order == "sum":
        return (a * b).sum(-1)
    if order == "blocks":
        perm = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
        products = (a * b)[..., perm]
        return sum((products[..., i : i + 3].sum(-1) for i in range(3, n, 3)), products[..., :3].sum(-1))
    a, b = torch.broadcast_tensors(a, b)
    total = torch.zeros_like(a[..., 0])
    for i in reversed(range(n)):
        product = a[..., i].double() * b[..., i].double()  # exact for fp32, as inside a fused multiply-add
        total = (total + product.to(total.dtype)) if order == "sequential" else (total + product).to(total.dtype)
    return total


def established(toy, dtype, T, B=3, H=4, N=8, draw="typical", seed=0):
    """Return the truth of one case of a toy."""
    case = cases.Case(dtype, (("B", B), ("T", T), ("H", H)), draw)
    return truth.establish(truth.draw(toy.kernel, toy, {"N": N}, case, seed))


def head(known, got, toy, h):
    """Return the rows of head h alone, as if the others did not exist: one seed of many."""

    def take(name, array, before=0):
        return np.take(array, [h], axis=toy.head_axis[name.removeprefix("d_")] + before)

    one = truth.Truth(
        replace(known.problem, sizes={**known.problem.sizes, "H": 1}),
        {n: take(n, v) for n, v in known.values.items()},
        {n: take(n, v, 1) for n, v in known.errors.items()},
    )
    return one.judge({n: t.narrow(toy.head_axis[n.removeprefix("d_")], h, 1) for n, t in got.items()})
