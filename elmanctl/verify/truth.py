"""The truth of one case, in fp64 with autograd, and what stochastic roundings of it differ by.

Everything runs on the CPU, whatever device the kernel runs on.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from elmanctl.kernel import Kernel
from elmanctl.tensors import ACCUMULATOR, TensorSpec, evaluate
from elmanctl.verify import cases, drawn
from elmanctl.verify.limits import Limits
from elmanctl.verify.policy import ACCUMULATION, ROUNDINGS
from elmanctl.verify.rounding import TINY, UNIT, Rounding, absolute
from elmanctl.verify.tolerance import Row, judge

INF = float("inf")


@dataclass(frozen=True)
class Problem:
    """One case made concrete.

    Args:
        inputs: by name, in the kernel's dtypes on the CPU; absent ones are left out.
        gradients: `d_<output>` by name, likewise.
    """

    kernel: Kernel
    constants: Mapping[str, int]
    dtype: str
    sizes: Mapping[str, int]
    forward: Callable
    inputs: dict[str, Tensor]
    gradients: dict[str, Tensor]
    seed: int


def seed_of(text: str, seed: int) -> int:
    """Return the seed of a case: from its text, so that it is the same when the case runs alone."""
    return int.from_bytes(hashlib.sha256(f"{seed}|{text}".encode()).digest()[:7], "big")


def draw(kernel: Kernel, reference, constants: Mapping[str, int], case, seed: int) -> Problem:
    """Draw inputs and upstream gradients of a case and round them to the kernel's dtypes."""
    sizes = {**constants, **dict(case.sizes)}
    own = seed_of(case.id, seed)
    generator = torch.Generator().manual_seed(own)

    def randn(*shape):
        shape = shape[0] if len(shape) == 1 and isinstance(shape[0], (tuple, list, torch.Size)) else shape
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    specs = [s for s in kernel.input_specs if s.present(constants)]
    shapes = {s.name: s.shape(sizes) for s in specs}
    raw = drawn.inputs(kernel, reference, case.draw, shapes, dict(constants), randn)
    inputs = {s.name: _to(raw[s.name], s, case.dtype) for s in specs}
    outputs = [s for s in kernel.output_specs if s.present(constants)]
    gradients = {f"d_{s.name}": _to(randn(*s.shape(sizes)), s, case.dtype) for s in outputs}
    return Problem(kernel, constants, case.dtype, sizes, reference.forward, inputs, gradients, own)


def _to(value: Tensor, spec: TensorSpec, dtype: str) -> Tensor:
    return value.to(getattr(torch, spec.dtype(dtype))).contiguous()


def differentiate(problem: Problem, rounding: Rounding | None = None) -> dict[str, Tensor]:
    """Return outputs and `d_<input>` in fp64, stored with rounding where one is given."""
    kernel, constants = problem.kernel, problem.constants
    leaves = {name: t.double().requires_grad_() if t.is_floating_point() else t for name, t in problem.inputs.items()}
    full = {s.name: leaves.get(s.name) for s in kernel.input_specs}
    extra = {} if rounding is None else {"at": rounding.at}
    given = dict(zip(kernel.outputs, problem.forward(**full, constants=dict(constants), **extra), strict=True))
    outputs = {s.name: given[s.name] for s in kernel.output_specs if s.present(constants)}
    wanted = {name: leaf for name, leaf in leaves.items() if leaf.requires_grad}
    live = {name: out for name, out in outputs.items() if out.requires_grad}
    found = torch.autograd.grad(
        list(live.values()),
        list(wanted.values()),
        [problem.gradients[f"d_{name}"].double() for name in live],
        allow_unused=True,
    )
    result = {name: out.detach() for name, out in outputs.items()}
    for (name, leaf), gradient in zip(wanted.items(), found, strict=True):
        result[f"d_{name}"] = torch.zeros_like(leaf) if gradient is None else gradient
    if rounding is not None:
        kinds = {s.name: s for s in (*kernel.output_specs, *_gradient_specs(kernel))}
        result = {name: rounding.round(t, kinds[name].dtype(problem.dtype)) for name, t in result.items()}
    return {name: t.detach() for name, t in result.items()}


def _gradient_specs(kernel: Kernel) -> list[TensorSpec]:
    return [TensorSpec(f"d_{s.name}", s.dims, s.kind, s.when) for s in kernel.input_specs]


@dataclass(frozen=True)
class Truth:
    """What is right and how exact it can be, as fp64 arrays: values by name, and errors [M, *shape] of M roundings."""

    problem: Problem
    values: dict[str, np.ndarray]
    errors: dict[str, np.ndarray]

    def most(self) -> float:
        """Return the largest magnitude of any value."""
        return max((float(np.abs(v).max()) for v in self.values.values() if v.size), default=0.0)

    def judge(self, got: Mapping[str, Tensor]) -> list[Row]:
        """Apply the rule to what a kernel returned: outputs, and `d_<input>` of every input."""
        rows = []
        for name in self.values:
            if wrong := self._unlike(name, got):
                rows.append(Row(name, INF, INF, wrong))
                continue
            part = self._part(name)
            array = got[name].detach().cpu().double().numpy().reshape(part.limits.truth.shape)
            arrays = (array, part.limits.truth, part.errors)
            rows.append(judge(name, part.axes, *arrays, part.accumulation, part.tiny, self._chunk, part.limits))
        return rows

    def ratios(self, got: Mapping[str, Tensor], names: Iterable[str] | None = None) -> dict[str, float]:
        """Return error over limit, as `judge` finds it, of the named tensors; by default of each that a kernel should return."""
        found = {}
        for name in self.values if names is None else names:
            found[name] = INF
            if not self._unlike(name, got):
                limits = self._part(name).limits
                found[name] = limits.worst(got[name].detach().cpu().double().numpy().reshape(limits.truth.shape))
        return found

    def prepare(self) -> "Truth":
        """Work out the limits, before processes are forked that would each do so; return self."""
        for name in self.values:
            self._part(name)
        return self

    @property
    def _chunk(self) -> int:
        return cases.chunk(dict(self.problem.constants))

    def _unlike(self, name: str, got: Mapping[str, Tensor]) -> str:
        """Return why a result cannot be compared; nothing where it can."""
        if name not in got:
            return "missing"
        wanted = self._specs[name].dtype(self.problem.dtype)
        if str(got[name].dtype) != f"torch.{wanted}":
            return f"dtype {got[name].dtype} instead of {wanted}"
        if got[name].shape != self.values[name].shape:
            return f"shape {list(got[name].shape)} instead of {list(self.values[name].shape)}"
        return ""

    @cached_property
    def _specs(self) -> dict[str, TensorSpec]:
        kernel = self.problem.kernel
        return {s.name: s for s in (*kernel.output_specs, *_gradient_specs(kernel))}

    @cached_property
    def _parts(self) -> dict[str, "Part"]:
        return {}

    def _part(self, name: str) -> "Part":
        if name not in self._parts:
            problem, truth = self.problem, self.values[name]
            declared, accumulator = problem.kernel.terms, ACCUMULATOR[problem.dtype]
            terms = declared.get(name) or declared.get(name.removeprefix("d_")) or declared.get("*", "T")
            accumulation = ACCUMULATION * UNIT[accumulator] * float(evaluate(terms, problem.sizes)) ** 0.5
            axes, shape = split_products(self._specs[name].dims, truth.shape, problem.sizes)
            errors, tiny = self.errors[name].reshape(-1, *shape), TINY[accumulator]
            limits = Limits(axes, truth.reshape(shape), errors, accumulation, tiny)
            self._parts[name] = Part(axes, errors, accumulation, tiny, limits)
        return self._parts[name]


@dataclass(frozen=True)
class Part:
    """One tensor of a truth with its axes taken apart, and its limits; see Limits."""

    axes: tuple[str, ...]
    errors: np.ndarray
    accumulation: float
    tiny: float
    limits: Limits


def split_products(dims, shape, sizes: Mapping[str, int]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Take an axis such as `H*M` apart, so that a head is a group of its own and is named."""
    axes, lengths = [], []
    for dim, length in zip(dims, shape, strict=True):
        parts = dim.split("*")
        known = all(p in sizes for p in parts)
        axes += parts if known else [dim]
        lengths += [sizes[p] for p in parts] if known else [length]
    return tuple(axes), tuple(lengths)


def establish(problem: Problem, roundings: int | None = None) -> Truth:
    """Evaluate the truth and `roundings` stochastic roundings of it (by default as ROUNDINGS says).

    Raises:
        ValueError: where the truth is not finite (the draw is unusable), or a declared point is never marked.
    """
    roundings = roundings or next(m for t, m in ROUNDINGS if problem.sizes.get("T", 1) <= t)
    truth = differentiate(problem)
    for name, value in truth.items():
        if not bool(value.isfinite().all()):
            raise ValueError(f"the reference itself gives {name} that is not finite in fp64; its draw is too extreme.")
    errors: dict[str, list] = {name: [] for name in truth}
    for i in range(roundings):
        with Rounding(problem.kernel, problem.dtype, seed_of(f"rounding {i}", problem.seed)) as rounding:
            rounded = differentiate(problem, rounding)
        for name, value in rounded.items():
            errors[name].append((value - truth[name]).numpy())
    if unmarked := set(rounding.points) - rounding.marked - unreachable(problem.kernel, problem.constants):
        raise ValueError(f"rounds names {', '.join(sorted(unmarked))}, but reference.py marks no such point.")
    return Truth(problem, {n: v.numpy() for n, v in truth.items()}, {n: np.stack(e) for n, e in errors.items()})


def unreachable(kernel: Kernel, constants: Mapping[str, int]) -> set[str]:
    """Return points that these constants leave out or that are named after tensors which they do, and functions, which an option may leave out."""
    specs = (*kernel.input_specs, *kernel.output_specs, *kernel.saved_specs)
    functions = {name for name, direction in kernel.rounds.items() if absolute(direction) is not None}
    left_out = {name for name, gate in kernel.conditions.items() if not constants[gate]}
    return functions | left_out | {s.name for s in specs if not s.present(constants)}
