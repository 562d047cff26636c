"""Mistakes derived from a kernel's declaration: which tensors have time, which are weights, which are first and last states.

A fault takes a Scene and returns the damaged results by name, or says why it does not apply. Most are the right library called as a wrong
kernel would call itself: with the upstream gradient of another step, a weight transposed in backward only, a carry rounded on its way.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from elmanctl.kernel import Kernel
from elmanctl.tensors import TensorSpec
from elmanctl.verify.properties import states
from elmanctl.verify.prove.stepwise import stepwise
from elmanctl.verify.run import Library, run
from elmanctl.verify.truth import Problem

Wrong = dict[str, Tensor] | str  # damaged results, or why the fault does not apply


@dataclass(frozen=True)
class Scene:
    """One case with a right library: its inputs, a former call's, and what the library returns for both."""

    library: Library
    problem: Problem
    former: Problem
    chunk: int

    @property
    def kernel(self) -> Kernel:
        return self.problem.kernel

    @property
    def steps(self) -> int:
        return self.problem.sizes.get("T", 1)

    @cached_property
    def kept(self) -> dict[str, Tensor]:
        """Outputs and saved tensors of the right forward pass."""
        return self.library.forward(self.problem.inputs)

    @cached_property
    def right(self) -> dict[str, Tensor]:
        return run(self.library, self.problem)

    @cached_property
    def before(self) -> dict[str, Tensor]:
        """What the former call returned."""
        return run(self.library, self.former)

    @cached_property
    def pairs(self) -> dict[str, str]:
        """First state -> last state, of those that exist here."""
        return {a: b for a, b in states(self.kernel).items() if a in self.problem.inputs}

    def backward(self, inputs: Mapping[str, Tensor] = (), kept: Mapping[str, Tensor] = (), upstream=()) -> dict:
        """Run the right backward pass with some of its tensors replaced."""
        tensors = {**self.problem.inputs, **self.kept, **dict(inputs), **dict(kept)}
        return self.library.backward(tensors, {**self.problem.gradients, **dict(upstream)})

    def effective(self, wrong: dict[str, Tensor], otherwise: str) -> Wrong:
        """Return wrong results, or a reason where tensors that differ everywhere changed no bit of them: they are not read."""
        return otherwise if all(torch.equal(t, self.right[n]) for n, t in wrong.items()) else wrong

    def timed(self, specs: tuple[TensorSpec, ...], tensors: Mapping[str, Tensor]) -> dict[str, int]:
        """Return the axis of time of those tensors that have one."""
        return {s.name: s.dims.index("T") for s in specs if "T" in s.dims and s.name in tensors}


def late_gradient(s: Scene) -> Wrong:
    axes = s.timed(s.kernel.output_gradient_specs, s.problem.gradients)
    if not axes:
        return "no output has time"
    return s.backward(upstream={n: _shifted(s.problem.gradients[n], axis) for n, axis in axes.items()})


def _shifted(t: Tensor, axis: int) -> Tensor:
    """Return t one step later in place of each step, and zero in place of the last."""
    return torch.cat([t.narrow(axis, 1, t.shape[axis] - 1), torch.zeros_like(t.narrow(axis, 0, 1))], axis)


def other_replay(s: Scene) -> Wrong:
    """Backward replays a step with the inputs of the one before."""
    axes = s.timed(s.kernel.input_specs, s.problem.inputs)
    if not axes or s.steps == 1:
        return "no input has time" if not axes else "one step"
    wrong = s.backward(inputs={n: torch.roll(s.problem.inputs[n], 1, axis) for n, axis in axes.items()})
    return s.effective(wrong, "backward reads no input that has time")


def no_last_state_gradient(s: Scene) -> Wrong:
    if not s.pairs:
        return "no last state"
    return s.backward(upstream={f"d_{last}": torch.zeros_like(s.kept[last]) for last in s.pairs.values()})


def no_first_state_gradient(s: Scene) -> Wrong:
    return {f"d_{first}": torch.zeros_like(s.right[f"d_{first}"]) for first in s.pairs} or "no first state"


def no_first_state(s: Scene) -> Wrong:
    """The first state is taken as zero, in both passes."""
    if not s.pairs:
        return "no first state"
    empty = {first: torch.zeros_like(s.problem.inputs[first]) for first in s.pairs}
    forward = s.library.forward({**s.problem.inputs, **empty})
    return {n: t for n, t in (forward | s.backward(empty, forward)).items() if n in s.right}


def first_for_last_state(s: Scene) -> Wrong:
    return {last: s.problem.inputs[first] for first, last in s.pairs.items()} or "no last state"


def transposed_weight(s: Scene) -> Wrong:
    """Backward reads a weight transposed; one that is not square keeps its shape and is read in the wrong order."""
    found = [w for w in s.kernel.input_specs if w.name in s.problem.inputs and _is_weight(w)]
    if not found:
        return "no weight of two dimensions"
    wrong = s.backward(inputs={w.name: _turned(s.problem.inputs[w.name]) for w in found})
    return s.effective(wrong, "backward does not read the weight")


def _is_weight(spec: TensorSpec) -> bool:
    return len(spec.dims) >= 2 and not {"B", "T"} & set(spec.dims) and spec.kind != "int32"


def _turned(t: Tensor) -> Tensor:
    return t.mT.contiguous().view(t.shape)


def skipped_tail(s: Scene) -> Wrong:
    """The last partial chunk is never run: zeros in its place, and states of the step before it."""
    if s.steps % s.chunk == 0:
        return "no partial chunk"
    cut = s.steps // s.chunk * s.chunk
    result = {n: t.clone() for n, t in s.right.items()}
    specs = {t.name: t for t in (*s.kernel.input_specs, *s.kernel.output_specs)}
    axes = {n: spec.dims.index("T") for n, spec in specs.items() if "T" in spec.dims}
    head = _call(s, axes, cut) if cut else {}
    for name, t in result.items():
        own = name.removeprefix("d_") if name not in specs else name
        if own in axes:
            t.narrow(axes[own], cut, s.steps - cut).zero_()
            if cut:
                t.narrow(axes[own], 0, cut).copy_(head[name])
        elif cut:
            t.copy_(head[name])
    for first, last in s.pairs.items() if not cut else ():
        result |= {last: s.problem.inputs[first], f"d_{first}": s.problem.gradients[f"d_{last}"]}
    return result


def _call(s: Scene, axes: Mapping[str, int], cut: int) -> dict[str, Tensor]:
    """Run the first steps alone."""

    def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
        own = {n: axes.get(n.removeprefix(prefix)) for n in tensors}
        return {n: t if own[n] is None else t.narrow(own[n], 0, cut).contiguous() for n, t in tensors.items()}

    inputs = part(s.problem.inputs, "")
    forward = s.library.forward(inputs)
    return forward | s.library.backward({**inputs, **forward}, part(s.problem.gradients, "d_"))


def stale_saved(s: Scene) -> Wrong:
    """Backward reads what the former call saved."""
    names = [spec.name for spec in s.kernel.saved_specs if spec.name in s.kept]
    if not names:
        return "nothing is saved"
    old = s.library.forward(s.former.inputs)
    return s.effective(s.backward(kept={n: old[n] for n in names}), "backward does not read what is saved")


def swapped_gradients(s: Scene) -> Wrong:
    """Two inputs of one shape get each other's gradient."""
    names = [n for n in s.right if n.startswith("d_") and n.removeprefix("d_") in s.kernel.inputs]
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            if s.right[a].shape == s.right[b].shape and s.right[a].dtype == s.right[b].dtype:
                return {a: s.right[b], b: s.right[a]}
    return "no two inputs have one shape"


def _low(t: Tensor) -> Tensor:
    return t.to(torch.bfloat16).to(t.dtype)


def _cut_off(t: Tensor) -> Tensor:
    limit = 0.5 * t.square().mean().sqrt()
    return t.clamp(-limit, limit)


def carried(carry: Callable | None = None, carry_back: Callable | None = None) -> Callable[[Scene], Wrong]:
    """Return the fault that changes every carried state, or every carried gradient, between two steps."""

    def fault(s: Scene) -> Wrong:
        if not s.pairs or s.steps == 1:
            return "one step" if s.pairs else "no carried state"
        return stepwise(s.library, s.problem, s.pairs, carry, carry_back)

    return fault


FAULTS: dict[str, Callable[[Scene], Wrong]] = {
    "gradient one step late": late_gradient,
    "backward replays another step": other_replay,
    "no last-state gradient": no_last_state_gradient,
    "no first-state gradient": no_first_state_gradient,
    "first state ignored": no_first_state,
    "first state returned as the last": first_for_last_state,
    "transposed weight in backward": transposed_weight,
    "last partial chunk skipped": skipped_tail,
    "stale saved tensors": stale_saved,
    "two gradients swapped": swapped_gradients,
    "bf16 carry": carried(_low),
    "bf16 gradient carry": carried(None, _low),
    "clamped gradient carry": carried(None, _cut_off),
}


def of_one_tensor(s: Scene, name: str) -> Iterator[tuple[str, Wrong]]:
    """Yield what can be wrong with one result alone: (fault, damaged results or why not)."""
    right = s.right[name]
    yield f"zeros in {name}", {name: torch.zeros_like(right)}
    yield f"stale {name}", {name: s.before[name]}
    gradient = name.startswith("d_")
    if gradient:
        yield f"scaled {name}", {name: 2 * right}
        yield f"clamped {name}", {name: _cut_off(right)}
    spec = {t.name: t for t in s.kernel.input_specs}.get(name.removeprefix("d_"))
    if gradient and spec and right.ndim >= 2 and ("B" not in spec.dims[-2:] and "T" not in spec.dims[-2:]):
        what = "square" if right.shape[-1] == right.shape[-2] else "not square"
        turned = {name: _turned(right)} if min(right.shape[-2:]) > 1 else "a row or a column is its own transpose"
        yield f"transposed {name} ({what})", turned


def every(s: Scene) -> Iterator[tuple[str, Wrong]]:
    """Yield (name, damaged results or why it does not apply) of every fault."""
    for name, fault in FAULTS.items():
        yield name, fault(s)
    for name in s.right:
        yield from of_one_tensor(s, name)
