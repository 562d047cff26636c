"""The pointwise recurrence in plain PyTorch: a loop over time, in any floating dtype, and the parts that several variants name.

A variant's reference.py has `update` and `readout` and calls `run`; autograd sees through both.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

DRAWS = ("typical", "saturated", "extreme")
PART = "_part"  # what the kernel leaves of a vector's gradient: a sum over time for each batch row


def exact(name: str, x: Tensor) -> Tensor:
    """Leave x as it is: no rounding at the point `name`."""
    return x


def run(
    update: Callable, readout: Callable, inputs: Sequence[Tensor], h0: Tensor, bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Run h[t] = update(h[t-1], *in[t]), y[t] = readout(h[t], *in[t]), in[t] being the inputs with their biases.

    Args:
        update, readout: elementwise in all arguments, [B, D] each; they know the vectors and the rounding points.
        inputs: tensors over time, [B, T, D] each.
        bias: of all inputs, one after the other, [inputs D]; None for none.
        h0: state before the first step, [B, D]; the computation runs in its dtype.
    Returns:
        y [B, T, D] in the dtype of the inputs, and the last state [B, D].
    """
    dtype, inputs = inputs[0].dtype, [x.to(h0.dtype) for x in inputs]
    if bias is not None:
        inputs = [x + b for x, b in zip(inputs, bias.chunk(len(inputs)), strict=True)]
    h, outputs = h0, []
    for now in zip(*(x.unbind(1) for x in inputs), strict=True):
        h = update(h, *now)
        outputs.append(readout(h, *now))
    return torch.stack(outputs, 1).to(dtype), h


def weight_gradients(t: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the gradient of every bias and vector [D]: the sum over the batch of what the kernel summed over time, [B, D]."""
    return {f"d_{name.removesuffix(PART)}": part.sum(0) for name, part in t.items() if name.endswith(PART)}


def draw(kind: str, shapes: Mapping[str, tuple], randn: Callable, vectors: Sequence[str] = ()) -> dict[str, Tensor]:
    """Draw inputs in fp64.

    `typical`: normal. `saturated`: inputs over time of size 8, both signs. `extreme`: a third of them at zero, the others of size 20 to 24.
    Vectors lie between -1 and 1, near both ends where `extreme`: a state then neither grows nor forgets without its inputs. Every other bias
    is zero, so that an input of zero stays one.

    Args:
        shapes: of every input by name.
        randn: draws a normal tensor of a shape.
        vectors: which of them are vectors.
    """
    drawn = {name: randn(*shape) for name, shape in shapes.items()}
    for name, x in drawn.items():
        if name in vectors:
            drawn[name] = torch.tanh(3 * x if kind == "extreme" else x)
        elif name == "bias":
            drawn[name] = x * (torch.arange(len(x)) % 2)
        elif kind == "saturated" and name != "h0":
            drawn[name] = 8 * x
        elif kind == "extreme" and name != "h0":
            drawn[name] = torch.where(x.abs() < 0.43, 0, x + 20 * x.sign())
    return drawn


# Parts of updates.


def tanh(at: Callable, x: Tensor) -> Tensor:
    """Return tanh(x), which the bf16 kernel makes with a bounded absolute error."""
    return at("tanh", torch.tanh(x))


def mix(a: Tensor, h: Tensor, v: Tensor) -> Tensor:
    """Return sigmoid(a) h + (1 - sigmoid(a)) v, 1 - sigmoid(a) being sigmoid(-a), which keeps its digits."""
    return torch.sigmoid(a) * h + torch.sigmoid(-a) * v


def positive(u: Tensor) -> Tensor:
    """Return u + 1/2 for u >= 0, sigmoid(u) below: continuous, positive, unbounded above."""
    return torch.where(u >= 0, u + 0.5, torch.sigmoid(u))


# Readouts: y from h; the inputs are there for readouts with a gate.


def plain(h: Tensor, *inputs: Tensor) -> Tensor:
    """Return h."""
    return h


def self_gate(h: Tensor, *inputs: Tensor) -> Tensor:
    """Return h silu(h)."""
    return h * F.silu(h)
