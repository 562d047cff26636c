"""Properties of a kernel that hold bit for bit, the whole sequence against its pieces, and what torch asks of an op."""

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from elmanctl import launch, ops
from elmanctl.kernel import Kernel
from elmanctl.tensors import TensorSpec
from elmanctl.toolchain import HOST
from elmanctl.verify.drawn import states
from elmanctl.verify.run import Check, Compiled, Library, judged, run, same_bits
from elmanctl.verify.truth import Problem, Truth, establish

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


def pieces(library: Library, problem: Problem, cuts: Sequence[int]) -> dict[str, Tensor]:
    """Run the sequence in pieces with carried state and its gradient; return what one run of the whole returns.

    Args:
        cuts: the steps at which pieces after the first begin, ascending.
    """
    kernel, pairs = problem.kernel, states(problem.kernel)
    inputs, outputs = ({s.name: s for s in group} for group in (kernel.input_specs, kernel.output_specs))
    ranges = list(zip([0, *cuts], [*cuts, problem.sizes["T"]], strict=True))

    def part(tensors, specs, prefix, low, high):
        return {
            n: _take(t, s, low, high) if "T" in (s := specs[n.removeprefix(prefix)]).dims else t
            for n, t in tensors.items()
        }

    given, results, carried = [], [], {}
    for low, high in ranges:
        given.append(part(problem.inputs, inputs, "", low, high) | carried)
        results.append({n: t.cpu() for n, t in library.forward(given[-1]).items()})
        carried = {first: results[-1][last] for first, last in pairs.items()}
    gradients, carried = [], {}
    for (low, high), tensors, known in zip(reversed(ranges), reversed(given), reversed(results), strict=True):
        upstream = part(problem.gradients, outputs, "d_", low, high) | carried
        gradients.insert(0, {n: t.cpu() for n, t in library.backward({**tensors, **known}, upstream).items()})
        carried = {f"d_{last}": gradients[0][f"d_{first}"] for first, last in pairs.items()}
    joined = {}
    for n, s in outputs.items():
        if n in results[0]:
            joined[n] = torch.cat([r[n] for r in results], s.dims.index("T")) if "T" in s.dims else results[-1][n]
    for n, s in inputs.items():
        if (key := f"d_{n}") in gradients[0]:
            every = [g[key] for g in gradients]
            joined[key] = (
                torch.cat(every, s.dims.index("T")) if "T" in s.dims else every[0] if n in pairs else sum(every)
            )
    return joined


def opcheck(library: Compiled, problem: Problem) -> str:
    """The registered op keeps what torch.library promises: schema, autograd, fake tensors, ahead-of-time autograd."""
    kernel, constants, device = problem.kernel, problem.constants, library.device
    named = {s.name: problem.inputs[s.name].to(device) for s in kernel.input_specs if s.present(constants)}
    call, given = ops.register(kernel, constants), list(named.values())
    leaves = [t.clone().requires_grad_() if t.is_floating_point() else t for t in given]
    upstream = [problem.gradients[f"d_{s.name}"].to(device) for s in kernel.output_specs if s.present(constants)]
    recurrence, backward = torch.ops.elmanctl.recurrence.default, torch.ops.elmanctl.recurrence_backward.default
    found = torch.library.opcheck(recurrence, (call, leaves), raise_exception=False)
    kept = (call, given + recurrence(call, given), upstream)
    found |= {
        f"{name} of the backward op": result
        for name, result in torch.library.opcheck(
            backward, kept, test_utils=("test_schema", "test_faketensor"), raise_exception=False
        ).items()
    }
    bad = [f"{name}: {' '.join(str(result).split())[:300]}" for name, result in found.items() if result != "SUCCESS"]
    return "; ".join(bad)


BITWISE: dict[str, Callable] = {
    "repeat": repeat,
    "causality": causality,
    "rows": rows,
    "fiber-order": fiber_order,
    "opcheck": opcheck,
}
CUTS: dict[str, Callable] = {"split": lambda T: [T // 2], "tokens": lambda T: range(1, T)}


def check_property(
    name: str, library: Library, problem: Problem, known: Callable[[Problem], Truth] = establish
) -> Check:
    """Run one property by name: one of BITWISE or CUTS. `known` gives the truth that CUTS are held against."""
    started, id = time.monotonic(), f"{problem.dtype} {name}"
    if name in CUTS:
        found = pieces(library, problem, CUTS[name](problem.sizes["T"]))
        return judged(id, "property", known(problem).judge(found), started)
    text = BITWISE[name](library, problem)
    return Check(id, "property", not text, message=text, seconds=time.monotonic() - started)


def names(kernel: Kernel, dtype: str, target: str) -> list[str]:
    """Return the properties that apply: pieces where first and last states pair up and the carry is not rounded between."""
    found = ["repeat", "causality", "rows"]
    if target == HOST:
        found.append("fiber-order")
    if dtype == "float32":
        found += [*(CUTS if states(kernel) else ()), "opcheck"]
    return found
