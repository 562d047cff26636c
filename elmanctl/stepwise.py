"""A dense recurrence with products of torch (cuBLAS) in each step in place of the compiled kernel: its second, verified mode.

* For widths that the kernel cannot keep on the chip (takeover.py), and for comparison. Chosen by the constant CUBLAS, which a variant's
  option `recurrence` sets.
* reference.py supplies the elementwise part: `state(pre)`, `state_slope(h)`, `readout(h, *gates)` and `readout_slopes(h, *gates)`, its derivatives
  by each argument (an op's own code runs below autograd); or `parts(constants)`, which returns these four.
* Results, saved tensors and rounding points are those of the kernel: operands of a product in the compute dtype, sums and states in the
  accumulator's. Every step is a handful of launches, which a CUDA graph takes in.
* A recurrence of another form has passes of its own: reference.py's `stepwise(constants)` returns an object with `forward(inputs)` and
  `backward(tensors, upstream)` (families/gated_stepwise.py).
"""

import importlib
from collections.abc import Mapping

import torch
from torch import Tensor

from elmanctl.kernel import Kernel
from elmanctl.tensors import ACCUMULATOR

CONSTANT = "CUBLAS"


def asked(constants: Mapping[str, int]) -> bool:
    """Return whether a kernel's constants ask for this mode."""
    return bool(constants.get(CONSTANT))


def product(a: Tensor, b: Tensor) -> Tensor:
    """Return a b, summed and returned in the accumulator's dtype."""
    wide = getattr(torch, ACCUMULATOR[str(a.dtype).removeprefix("torch.")])
    if wide == a.dtype:
        return a @ b
    # Products of two bf16 are exact in fp32, so that the CPU's detour rounds nowhere else.
    return torch.mm(a, b, out_dtype=wide) if a.is_cuda else a.to(wide) @ b.to(wide)


def _gates(kernel: Kernel, tensors: Mapping[str, Tensor], wide: torch.dtype) -> dict[str, Tensor]:
    return {n: tensors[n].to(wide) for n in kernel.inputs if n not in ("wx", "W", "h0") and n in tensors}


def _own(kernel: Kernel, constants: Mapping[str, int]):
    reference = importlib.import_module(f"{kernel.package}.reference")
    return reference.stepwise(constants) if hasattr(reference, "stepwise") else None


def _parts(kernel: Kernel, constants: Mapping[str, int]):
    reference = importlib.import_module(f"{kernel.package}.reference")
    return reference.parts(constants) if hasattr(reference, "parts") else reference


@torch.no_grad()  # an op's own code is below autograd; verify calls it with tensors that want gradients
def forward(kernel: Kernel, constants: Mapping[str, int], inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return outputs and saved tensors, as launch.run_forward does."""
    if own := _own(kernel, constants):
        return own.forward(inputs)
    parts = _parts(kernel, constants)
    wx, W, h = (inputs[n] for n in ("wx", "W", "h0"))
    states = torch.empty(wx.shape, dtype=h.dtype, device=h.device)
    for t in range(wx.shape[1]):
        h = parts.state(wx[:, t].to(h.dtype) + product(h.to(wx.dtype), W.mT))
        states[:, t] = h
    y = parts.readout(states, *_gates(kernel, inputs, h.dtype).values())
    return {"y": y.to(wx.dtype, copy=y is states), "h_last": h.clone(), "h": states}  # an op's results are no aliases


@torch.no_grad()
def backward(
    kernel: Kernel, constants: Mapping[str, int], tensors: Mapping[str, Tensor], upstream: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the tensors that the kernel's backward pass writes: gradients, and what `after_backward` needs."""
    if own := _own(kernel, constants):
        return own.backward(tensors, upstream)
    parts = _parts(kernel, constants)
    W, h = tensors["W"], tensors["h"]
    gates = _gates(kernel, tensors, h.dtype)
    read = [upstream["d_y"].to(h.dtype) * slope for slope in parts.readout_slopes(h, *gates.values())]
    slope, d_h = parts.state_slope(h), upstream["d_h_last"]
    d_wx = torch.empty_like(tensors["wx"])
    for t in reversed(range(h.shape[1])):
        d_wx[:, t] = (read[0][:, t] + d_h) * slope[:, t]
        d_h = product(d_wx[:, t], W)
    former = torch.cat([tensors["h0"][:, None], h[:, :-1]], 1).to(W.dtype)
    d_gates = {f"d_{n}": d.to(tensors[n].dtype) for n, d in zip(gates, read[1:], strict=True)}
    return {"d_wx": d_wx, "d_h0": d_h, "former": former, **d_gates}
