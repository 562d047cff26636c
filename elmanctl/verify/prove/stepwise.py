"""A library called one step at a time, with the carried state or its gradient changed between two steps."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from elmanctl.verify.run import Library
from elmanctl.verify.truth import Problem


def stepwise(
    library: Library,
    problem: Problem,
    pairs: Mapping[str, str],
    carry: Callable[[Tensor], Tensor] | None = None,
    carry_back: Callable[[Tensor], Tensor] | None = None,
) -> dict[str, Tensor]:
    """Run every step by itself and return what one run of the whole returns.

    Args:
        pairs: first state -> last state.
        carry, carry_back: applied to each state handed on to the next step, and to each gradient handed back.
    """
    kernel, T = problem.kernel, problem.sizes["T"]
    specs = {s.name: s for s in (*kernel.input_specs, *kernel.output_specs)}
    axes = {n: s.dims.index("T") for n, s in specs.items() if "T" in s.dims}

    def at(tensors: Mapping[str, Tensor], t: int, prefix: str = "") -> dict[str, Tensor]:
        own = {n: axes.get(n.removeprefix(prefix)) for n in tensors}
        return {n: x if own[n] is None else x.narrow(own[n], t, 1).contiguous() for n, x in tensors.items()}

    inputs, kept, state = [], [], {}
    for t in range(T):
        inputs.append({**at(problem.inputs, t), **state})
        kept.append(library.forward(inputs[t]))
        state = {first: carry(kept[t][last]) if carry else kept[t][last] for first, last in pairs.items()}
    found, upstream = [], {}
    for t in reversed(range(T)):
        gradients = library.backward({**inputs[t], **kept[t]}, {**at(problem.gradients, t, "d_"), **upstream})
        found.append(gradients)
        back = {last: gradients[f"d_{first}"] for first, last in pairs.items()}
        upstream = {f"d_{last}": carry_back(g) if carry_back else g for last, g in back.items()}
    found.reverse()
    result = {}
    for n in kernel.outputs:
        if n in kept[0]:
            result[n] = torch.cat([k[n] for k in kept], axes[n]) if n in axes else kept[-1][n]
    for n in kernel.inputs:
        if (d := f"d_{n}") in found[0]:
            parts = [f[d] for f in found]
            if n in axes:
                result[d] = torch.cat(parts, axes[n])
            else:
                # Parameters are used at every step; their gradient is summed in fp64, so that only the fault shows.
                result[d] = parts[0] if n in pairs else torch.stack(parts).double().sum(0).to(parts[0].dtype)
    return result
