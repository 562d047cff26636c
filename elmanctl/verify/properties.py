"""Properties of a kernel that hold bit for bit, and the whole sequence against its two halves."""

import time
from collections.abc import Callable

import torch
from torch import Tensor

from elmanctl import launch
from elmanctl.kernel import Kernel, TensorSpec
from elmanctl.toolchain import HOST
from elmanctl.verify.run import Check, Compiled, Library, judged, run, same_bits
from elmanctl.verify.truth import Problem, establish

ORDERS = (("reverse", 1), ("random", 2))


def repeat(library: Library, problem: Problem) -> str:
    """Two runs are equal bit for bit."""
    first, second = run(library, problem), run(library, problem)
    differ = [name for name in first if not same_bits(first[name], second[name])]
    return f"two runs differ in {', '.join(differ)}" if differ else ""


def fiber_order(library: Compiled, problem: Problem) -> str:
    """Results do not depend on the order in which the host runs threads and blocks: a missing barrier shows."""
    used: set = set()

    def in_order(code: int) -> Callable:
        return lambda called, _: (used.add(called), called.order(code, problem.seed))

    first = run(library, problem)
    try:
        for label, code in ORDERS:
            with launch.on_host(HOST, in_order(code)):
                other = run(library, problem)
            if differ := [name for name in first if not same_bits(first[name], other[name])]:
                return f"with threads in {label} order (seed {problem.seed}) {', '.join(differ)} differ: a barrier is missing"
    finally:
        for called in used:
            called.order(0)
    return ""


def causality(library: Library, problem: Problem) -> str:
    """Outputs before a step do not see later inputs; gradients from a step on do not see earlier output gradients."""
    kernel, cut = problem.kernel, problem.sizes["T"] // 2
    specs = {s.name: s for s in (*kernel.input_specs, *kernel.output_specs)}
    first = run(library, problem)
    later = {n: _changed(t, specs[n], slice(cut, None)) for n, t in problem.inputs.items()}
    second = library.forward(later)
    for s in kernel.output_specs:
        if (
            s.name in first
            and "T" in s.dims
            and not same_bits(_take(first[s.name], s, 0, cut), _take(second[s.name].cpu(), s, 0, cut))
        ):
            return f"{s.name} before step {cut} changes with the inputs from step {cut} on"
    earlier = {n: _changed(t, specs[n[2:]], slice(0, cut)) for n, t in problem.gradients.items()}
    gradients = library.backward({**problem.inputs, **library.forward(problem.inputs)}, earlier)
    for s in kernel.input_specs:
        name = f"d_{s.name}"
        if name in first and "T" in s.dims:
            before, after = (_take(t, s, cut, None) for t in (first[name], gradients[name].cpu()))
            if not same_bits(before, after):
                return f"{name} from step {cut} on changes with the output gradients before step {cut}"
    return ""


def rows(library: Library, problem: Problem) -> str:
    """Batch rows do not see each other."""
    kernel = problem.kernel
    specs = {s.name: s for s in (*kernel.input_specs, *kernel.output_specs)}
    first = run(library, problem)
    inputs = {n: _changed(t, specs[n], slice(0, 1), "B") for n, t in problem.inputs.items()}
    gradients = {n: _changed(t, specs[n[2:]], slice(0, 1), "B") for n, t in problem.gradients.items()}
    forward = library.forward(inputs)
    second = forward | library.backward({**inputs, **forward}, gradients)
    for name in first:
        s = specs[name.removeprefix("d_") if name.startswith("d_") and name not in specs else name]
        if "B" in s.dims and not same_bits(
            _take(first[name], s, 1, None, "B"), _take(second[name].cpu(), s, 1, None, "B")
        ):
            return f"{name} of rows 1 and up changes with the inputs of row 0"
    return ""


def _take(t: Tensor, spec: TensorSpec, low: int, high: int | None, dim: str = "T") -> Tensor:
    axis = spec.dims.index(dim)
    return t.narrow(axis, low, (t.shape[axis] if high is None else high) - low).contiguous()


def _changed(t: Tensor, spec: TensorSpec, where: slice, dim: str = "T") -> Tensor:
    """Return t with other values, of the same kind, in a part of one axis; t itself without that axis."""
    if dim not in spec.dims or not t.is_floating_point():
        return t
    axis = spec.dims.index(dim)
    index = torch.arange(t.shape[axis])[where]
    part = t.index_select(axis, index)
    # Turning the values around and halving them keeps their range, and changes them unless they are all zero.
    return t.index_copy(axis, index, -0.5 * part.flip(-1) if part.ndim else -part)


def states(kernel: Kernel) -> dict[str, str]:
    """Return first state -> last state, paired by name: `s0` and `s_last`."""
    return {n: f"{n[:-1]}_last" for n in kernel.inputs if n.endswith("0") and f"{n[:-1]}_last" in kernel.outputs}


def split(library: Library, problem: Problem, cut: int | None = None) -> dict[str, Tensor]:
    """Run two halves with carried state; return what one run of the whole returns."""
    kernel, pairs, T = problem.kernel, states(problem.kernel), problem.sizes["T"]
    cut = T // 2 if cut is None else cut
    inputs, outputs = ({s.name: s for s in group} for group in (kernel.input_specs, kernel.output_specs))

    def part(tensors, specs, prefix, low, high):
        return {
            n: _take(t, s, low, high) if "T" in (s := specs[n.removeprefix(prefix)]).dims else t
            for n, t in tensors.items()
        }

    first_in = part(problem.inputs, inputs, "", 0, cut)
    first = {n: t.cpu() for n, t in library.forward(first_in).items()}
    second_in = part(problem.inputs, inputs, "", cut, None) | {s: first[last] for s, last in pairs.items()}
    second = {n: t.cpu() for n, t in library.forward(second_in).items()}
    d_second = {
        n: t.cpu()
        for n, t in library.backward({**second_in, **second}, part(problem.gradients, outputs, "d_", cut, None)).items()
    }
    upstream = part(problem.gradients, outputs, "d_", 0, cut)
    upstream |= {f"d_{last}": d_second[f"d_{s}"] for s, last in pairs.items()}
    d_first = {n: t.cpu() for n, t in library.backward({**first_in, **first}, upstream).items()}
    joined = {
        n: torch.cat([first[n], second[n]], s.dims.index("T")) if "T" in s.dims else second[n]
        for n, s in outputs.items()
        if n in first
    }
    for name, s in inputs.items():
        if (key := f"d_{name}") in d_first:
            if "T" in s.dims:
                joined[key] = torch.cat([d_first[key], d_second[key]], s.dims.index("T"))
            else:
                joined[key] = d_first[key] if name in pairs else d_first[key] + d_second[key]
    return joined


BITWISE: dict[str, Callable] = {"repeat": repeat, "causality": causality, "rows": rows}


def check_property(name: str, library: Library, problem: Problem) -> Check:
    """Run one property by name: `repeat`, `causality`, `rows`, `fiber-order` or `split`."""
    started, id = time.monotonic(), f"{problem.dtype} {name}"
    if name == "split":
        return judged(id, "property", establish(problem).judge(split(library, problem)), started)
    text = fiber_order(library, problem) if name == "fiber-order" else BITWISE[name](library, problem)
    return Check(id, "property", not text, message=text, seconds=time.monotonic() - started)


def names(kernel: Kernel, dtype: str, target: str) -> list[str]:
    """Return the properties that apply: `split` where first and last states pair up and the carry is not rounded between."""
    carried = [s.kind for s in kernel.input_specs if s.name in states(kernel)]
    found = ["repeat", "causality", "rows"]
    if target == HOST:
        found.append("fiber-order")
    if carried and dtype == "float32":
        found.append("split")
    return found
