"""The tape recurrence in plain PyTorch: a loop over time, in any floating dtype, and the same with a backward pass by hand for the per-step mode.

A variant's reference.py has `score(z, r, h, *vectors)`, the score of the readout's gate, and `score_slopes`, its derivative by each of them.
"""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from elmanctl.families.dense_reference import DRAWS, exact, silu_slope
from elmanctl.stepwise import product

__all__ = ["DRAWS", "Stepwise", "draw", "exact", "run", "weight_gradients"]


def weights(x: Tensor, tape: Tensor) -> Tensor:
    """Return the softmax over slots of <x, tape> / sqrt(D), [B, N], from x [B, D] and tape [B, N, D]."""
    return torch.softmax((tape @ x[..., None])[..., 0] * x.shape[-1] ** -0.5, -1)


def written(tape: Tensor, beta: Tensor, w: Tensor) -> Tensor:
    """Return the tape with w [B, D] written to each slot by beta [B, N]."""
    return (1 - beta[..., None]) * tape + beta[..., None] * w[:, None]


def read(tape: Tensor, a: Tensor) -> Tensor:
    """Return the sum of the slots by their weights a [B, N], [B, D]."""
    return (a[:, None] @ tape)[:, 0]


def run(
    score: Callable, xz: Tensor, W: Tensor, h0: Tensor, tape0: Tensor, gate: Tensor | None = None, at: Callable = exact
) -> tuple[Tensor, Tensor, Tensor]:
    """Run the recurrence of families/tape.py.

    Args:
        score: of the readout's gate; autograd sees through it.
        xz: p, bias included, and z, side by side, [B, T, 2 D].
        W: W_h above W_w, [2 D, D].
        h0, tape0: state and tape before the first step, [B, D] and [B, N, D]; the computation runs in their dtype.
        gate: vectors of the score, [vectors, D].
        at: rounding points `h_operand`, `d_pre` and `d_w`.
    Returns:
        y [B, T, D] in the dtype of xz, the last state and the last tape.
    """
    h, tape, outputs = h0, tape0, []
    W_h, W_w = W.to(h.dtype).mT.chunk(2, -1)
    vectors = () if gate is None else gate.unbind()
    for t in range(xz.shape[1]):
        p, z = xz[:, t].to(h.dtype).chunk(2, -1)
        r = read(tape, weights(h, tape))
        h = torch.tanh(p + at("d_pre", at("h_operand", h) @ W_h) + r)
        outputs.append(h * F.silu(score(z, r, h, *vectors)))
        w = at("d_w", at("h_operand", h) @ W_w)
        tape = written(tape, weights(w, tape), w)
    return torch.stack(outputs, 1).to(xz.dtype), h, tape


def weight_gradients(t: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the gradient of W as one product over all rows, and those of the gate's vectors, where there are any.

    Args:
        t: tensors of the call. Row i of d_sums [B, T+1, 2 D] has the gradients of W_h h and of W_w h, for h = row i of former [B, T+1, D], in
            the compute dtype; gate_part [B, vectors, D] are sums over time.
    """
    found = {"d_W": t["d_sums"].flatten(0, 1).mT @ t["former"].flatten(0, 1)}
    return found | ({"d_gate": t["gate_part"].sum(0)} if "gate_part" in t else {})


def scores_gradient(weight: Tensor, d_weight: Tensor, D: int) -> Tensor:
    """Return the gradient of <x, tape>, [B, N], from the weights that `weights` made of it and their gradient."""
    return weight * (d_weight - (weight * d_weight).sum(-1, keepdim=True)) * D**-0.5


class Stepwise:
    """Both passes with library products in each step; results, saved tensors and rounding points are those of the kernel."""

    def __init__(self, score: Callable, score_slopes: Callable, constants: Mapping[str, int]):
        self.score, self.slopes, self.every = score, score_slopes, constants["K"]

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return outputs and saved tensors, as launch.run_forward does."""
        xz, W, h, tape = (inputs[name] for name in ("xz", "W", "h0", "tape0"))
        vectors = inputs["gate"].unbind() if "gate" in inputs else ()
        hs, ws, kept, tapes, ys, beta = [], [], [], [], [], torch.zeros_like(tape[..., 0])
        kappa = beta
        for t in range(xz.shape[1]):
            if t % self.every == 0:
                tapes.append(tape)
            p, z = xz[:, t].to(h.dtype).chunk(2, -1)
            a = weights(h, tape)
            kept.append(torch.cat([beta, kappa, a], -1))
            r, (u, _) = read(tape, a), product(h.to(W.dtype), W.mT).chunk(2, -1)
            h = torch.tanh(p + u + r)
            w = product(h.to(W.dtype), W.mT).chunk(2, -1)[1]
            beta = weights(w, tape)
            kappa = (h * w).sum(-1, keepdim=True) - (tape @ h[..., None])[..., 0]
            tape = written(tape, beta, w)
            ys.append(h * F.silu(self.score(z, r, h, *vectors)))
            hs.append(h)
            ws.append(w)
        kept.append(torch.cat([beta, kappa, weights(h, tape)], -1))
        names = ("y", "h", "w", "kept", "tapes")
        found = {n: torch.stack(x, 1) for n, x in zip(names, (ys, hs, ws, kept, tapes), strict=True)}
        return found | {"y": found["y"].to(xz.dtype), "h_last": h.clone(), "tape_last": tape.clone()}

    def tapes(self, tensors: Mapping[str, Tensor], segment: int) -> list[Tensor]:
        """Return the tapes that the steps of a segment found."""
        tape, made = tensors["tapes"][:, segment], []
        N, T = tape.shape[1], tensors["h"].shape[1]
        for t in range(segment * self.every, min(T, (segment + 1) * self.every)):
            made.append(tape)
            tape = written(tape, tensors["kept"][:, t + 1, :N], tensors["w"][:, t])
        return made

    def backward(self, tensors: Mapping[str, Tensor], upstream: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors that the kernel's backward pass writes; the equations are those of a README."""
        xz, W, h0, h, w = (tensors[name] for name in ("xz", "W", "h0", "h", "w"))
        B, T, D = h.shape
        vectors = tensors["gate"].unbind() if "gate" in tensors else ()
        kept, W_h, W_w = tensors["kept"].chunk(3, -1), *W.chunk(2)
        beta_all, a_all = kept[0], kept[2]
        parts = [torch.zeros_like(h0) for _ in vectors]
        d_xz, d_sums = torch.empty_like(xz), xz.new_zeros(B, T + 1, 2 * D)
        carry, d_tape, made = upstream["d_h_last"], upstream["d_tape_last"], []
        for t in reversed(range(T)):
            made = made or self.tapes(tensors, t // self.every)
            tape, z, a, beta = made.pop(), xz[:, t, D:].to(h.dtype), a_all[:, t], beta_all[:, t + 1]
            former = h[:, t - 1] if t else h0
            r, d_y = read(tape, a), upstream["d_y"][:, t].to(h.dtype)
            q = self.score(z, r, h[:, t], *vectors)
            d_q = d_y * h[:, t] * silu_slope(q)
            d_z, d_r, d_h, *own = (d_q * slope for slope in self.slopes(z, r, h[:, t], *vectors))
            parts = [part + d for part, d in zip(parts, own, strict=True)]
            d_eps = scores_gradient(beta, (d_tape * (w[:, t, None] - tape)).sum(-1), D)
            d_w = read(d_tape, beta) + read(tape, d_eps)
            d_sums[:, t + 1, D:] = d_w
            d_h = d_h + carry + d_y * F.silu(q) + product(d_sums[:, t + 1, D:], W_w)
            d_pre = d_h * (1 - h[:, t]) * (1 + h[:, t])
            d_sums[:, t, :D] = d_pre
            d_r = d_r + d_pre
            d_phi = scores_gradient(a, (tape @ d_r[..., None])[..., 0], D)
            d_tape = (1 - beta[..., None]) * d_tape + d_eps[..., None] * w[:, t, None]
            d_tape = d_tape + a[..., None] * d_r[:, None] + d_phi[..., None] * former[:, None]
            carry = product(d_sums[:, t, :D], W_h) + read(tape, d_phi)
            d_xz[:, t] = torch.cat([d_pre, d_z], -1)
        former = torch.cat([h0[:, None], h], 1).to(W.dtype)
        found = {"d_xz": d_xz, "d_h0": carry, "d_tape0": d_tape, "d_sums": d_sums, "former": former}
        return found | ({"gate_part": torch.stack(parts, 1)} if parts else {})


def draw(kind: str, shapes: Mapping[str, tuple], randn: Callable) -> dict[str, Tensor]:
    """Draw inputs in fp64.

    `typical`: normal, matrices with a largest singular value near 1. `saturated`: p and z of size 8, both signs, and a tape of size 3.
    `extreme`: p and z zero or of size 12 and more; every other slot of the tape empty, the others of size 6: weights near 0 and 1.

    Args:
        shapes: of every input by name.
        randn: draws a normal tensor of a shape.
    """
    drawn = {name: randn(*shape) for name, shape in shapes.items()}
    drawn["W"] = drawn["W"] * (0.5 / shapes["W"][1] ** 0.5)
    drawn["h0"] = torch.tanh(drawn["h0"])
    xz, tape = drawn["xz"], drawn["tape0"]
    if kind == "saturated":
        drawn |= {"xz": 8 * xz, "tape0": 3 * tape}
    if kind == "extreme":
        drawn["xz"] = torch.where(xz.abs() < 0.5, 0, 12 * xz)
        drawn["tape0"] = 6 * tape * (torch.arange(tape.shape[1]) % 2)[:, None]
    return drawn
