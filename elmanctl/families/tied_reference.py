"""The tied recurrence in plain PyTorch: h[t] = state(W (x[t] + h[t-1]) + b), y[t] = readout(h[t]), x = silu(u) or u.

A variant's reference.py names the elementwise parts of dense_reference.py as `Parts`. Slopes serve the per-step mode (stepwise.py), whose code
runs below autograd; verify holds both modes against autograd through `run`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from elmanctl.families import dense_reference as dense
from elmanctl.families.dense_reference import DRAWS, Parts, exact
from elmanctl.stepwise import product
from elmanctl.streams import beside

__all__ = ["DRAWS", "Parts", "Stepwise", "draw", "exact", "run", "weight_gradients"]


def run(
    parts: Parts, u: Tensor, W: Tensor, b: Tensor, h0: Tensor, constants: Mapping[str, int] | None, at: Callable = exact
) -> tuple[Tensor, Tensor]:
    """Run over time.

    Args:
        parts: elementwise parts; autograd sees through `state` and `readout`.
        u: input, [B, T, D]; W: weight of input and state, [D, D]; b: bias, [D].
        h0: state before the first step, [B, D]; the computation runs in its dtype.
        constants: SILU is 1 (or constants None) where x is silu(u).
        at: rounding points `operand` and `d_pre`, see families/tied.py.
    Returns:
        y [B, T, D] in the dtype of u, and the last state [B, D].
    """
    h, states, matrix, x = h0, [], W.to(h0.dtype).mT, u.to(h0.dtype)
    x = F.silu(x) if constants is None or constants["SILU"] else x
    for t in range(u.shape[1]):
        h = parts.state(at("d_pre", at("operand", x[:, t] + h) @ matrix + b))
        states.append(h)
    return parts.readout(torch.stack(states, 1)).to(u.dtype), h


def weight_gradients(t: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return d_W = sum over b, t of d_pre[t] (x[t] + h[t-1])^T as one product over all B T rows, and d_b.

    Args:
        t: tensors of the call; d_pre and operand, x[t] + h[t-1] as it entered the product, [B, T, D] in the compute dtype; b_part [B, D], sums
            of d_pre over time.
    """
    part = t["b_part"]
    d_b, stream = part.new_empty(part.shape[1:]), beside(part.device)
    with torch.cuda.stream(stream):  # a small sum, beside the product
        torch.sum(part, 0, out=d_b)
    d_W = t["d_pre"].flatten(0, 1).mT @ t["operand"].flatten(0, 1)
    if stream is not None:
        torch.cuda.current_stream(part.device).wait_stream(stream)
    return {"d_W": d_W, "d_b": d_b}


def draw(kind: str, shapes: Mapping[str, tuple], randn: Callable, bounded: bool) -> dict[str, Tensor]:
    """Draw inputs in fp64 as dense_reference.draw does, with u as its wx and a bias that is always small."""
    drawn = dense.draw(kind, {"wx": shapes["u"], "W": shapes["W"], "h0": shapes["h0"]}, randn, bounded)
    return {"u": drawn.pop("wx"), "b": randn(*shapes["b"]), **drawn}


@dataclass(frozen=True)
class Stepwise:
    """Both passes with one library product a step: results, saved tensors and rounding points of the kernel (stepwise.py)."""

    parts: Parts
    constants: Mapping[str, int]

    def entered(self, u: Tensor, wide: torch.dtype) -> Tensor:
        """Return x."""
        return F.silu(u.to(wide)) if self.constants["SILU"] else u.to(wide)

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return outputs and saved tensors, as launch.run_forward does."""
        u, W, b, h = (inputs[n] for n in ("u", "W", "b", "h0"))
        x, states = self.entered(u, h.dtype), torch.empty(u.shape, dtype=h.dtype, device=h.device)
        for t in range(u.shape[1]):
            h = self.parts.state(product((x[:, t] + h).to(u.dtype), W.mT) + b)
            states[:, t] = h
        y = self.parts.readout(states)
        return {
            "y": y.to(u.dtype, copy=y is states),
            "h_last": h.clone(),
            "h": states,
        }  # an op's results are no aliases

    def backward(self, tensors: Mapping[str, Tensor], upstream: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors that the kernel's backward pass writes."""
        u, W, h0, h = (tensors[n] for n in ("u", "W", "h0", "h"))
        read = upstream["d_y"].to(h.dtype) * self.parts.readout_slopes(h)[0]
        x_slope = dense.silu_slope(u.to(h.dtype)) if self.constants["SILU"] else torch.ones_like(h)
        slope, d_h, d_pre, d_u = (
            self.parts.state_slope(h),
            upstream["d_h_last"],
            torch.empty_like(u),
            torch.empty_like(u),
        )
        b_part = torch.zeros_like(h0)
        for t in reversed(range(h.shape[1])):
            d = (read[:, t] + d_h) * slope[:, t]
            b_part += d
            d_pre[:, t] = d
            d_h = product(d_pre[:, t], W)
            d_u[:, t] = d_h * x_slope[:, t]
        former = torch.cat([h0[:, None], h[:, :-1]], 1)
        operand = (self.entered(u, h.dtype) + former).to(u.dtype)
        return {"d_u": d_u, "d_h0": d_h, "d_pre": d_pre, "operand": operand, "b_part": b_part}
