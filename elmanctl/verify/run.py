"""Run one case on one library and apply the rule.

A library is anything with `forward` and `backward` as `Compiled` has them; a fake one in Python stands for a compiled kernel in tests.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from elmanctl.errors import CheckFailed
from elmanctl.kernel import Kernel
from elmanctl.verify import drawn
from elmanctl.verify.tolerance import Row
from elmanctl.verify.truth import Problem, Truth, draw, establish


class Library(Protocol):
    """A kernel that can be called. Tensors come on the CPU and go back to it."""

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return outputs and saved tensors by name."""

    def backward(self, tensors: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return `d_<input>` from inputs, outputs, saved tensors and `d_<output>`."""


@dataclass(frozen=True)
class Compiled:
    """The compiled kernel on `cpu` (the host build) or `cuda`, called with NaN-filled results between guard bands."""

    kernel: Kernel
    constants: Mapping[str, int]
    device: str = "cpu"

    def forward(self, inputs):
        from elmanctl import launch

        with launch.guarded():
            given = {name: t.to(self.device) for name, t in inputs.items()}
            return _unchanged(given, lambda: launch.run_forward(self.kernel, self.constants, given))

    def backward(self, tensors, gradients):
        from elmanctl import launch

        with launch.guarded():
            given = {name: t.to(self.device) for name, t in tensors.items()}
            upstream = {name: t.to(self.device) for name, t in gradients.items()}
            return _unchanged(
                given | upstream, lambda: launch.run_backward(self.kernel, self.constants, given, upstream)
            )


def _unchanged(given: dict[str, Tensor], call) -> dict[str, Tensor]:
    """Call, and fail if the call changed what it was given."""
    before = {name: t.clone() for name, t in given.items()}
    result = call()
    for name, t in given.items():
        if not same_bits(t, before[name]):
            raise CheckFailed(f"the kernel changed its argument {name}, which it may only read.")
    return result


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors are equal bit for bit, NaN included."""
    width = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[a.element_size()]
    return (
        a.shape == b.shape
        and a.dtype == b.dtype
        and torch.equal(a.contiguous().view(width), b.contiguous().view(width))
    )


def run(library: Library, problem: Problem) -> dict[str, Tensor]:
    """Run forward and backward; return outputs and `d_<input>` by name, on the CPU."""
    forward = library.forward(problem.inputs)
    gradients = library.backward({**problem.inputs, **forward}, problem.gradients)
    outputs = {name: forward[name] for name in problem.kernel.outputs if name in forward}
    return {name: t.cpu() for name, t in (outputs | gradients).items()}


@dataclass
class Check:
    """The outcome of one check.

    Args:
        id: what it is, as `--case` takes it.
        kind: `case` (against the truth), `property`, `layer`, `option` or `sanitize`.
        rows: one per tensor, worst values, for checks against a truth.
        message: why it failed, or what was found.
        seconds: wall time.
        not_run: nothing was checked, for a reason that `message` gives; such a check does not fail.
    """

    id: str
    kind: str
    ok: bool
    rows: list[Row] = field(default_factory=list)
    message: str = ""
    seconds: float = 0.0
    not_run: bool = False

    @property
    def worst(self) -> Row | None:
        return max(self.rows, key=lambda r: r.ratio, default=None)


def judged(id: str, kind: str, rows: list[Row], started: float) -> Check:
    """Return the check for rows."""
    return Check(id, kind, all(r.ok for r in rows), rows, seconds=time.monotonic() - started)


def run_case(
    library: Library,
    kernel: Kernel,
    reference,
    constants: Mapping[str, int],
    case,
    seed: int,
    truth: Truth | None = None,
) -> Check:
    """Run one case and judge it. A kernel that refuses or writes outside fails the check. Large inputs need a recurrence that bears them.

    Args:
        truth: where another process has established it already.
    """
    started = time.monotonic()
    truth = truth or establish(draw(kernel, reference, constants, case, seed))
    if drawn.overgrown(case, most := truth.most()):
        text = f"not run: without a bound this recurrence grows to {most:.0e} on it, which is no mistake"
        return Check(case.id, "case", True, message=text, seconds=time.monotonic() - started, not_run=True)
    try:
        got = run(library, truth.problem)
    except (CheckFailed, RuntimeError) as error:
        return Check(case.id, "case", False, message=str(error), seconds=time.monotonic() - started)
    return judged(case.id, "case", truth.judge(got), started)
