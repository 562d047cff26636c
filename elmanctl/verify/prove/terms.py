"""A term dropped: the reference with one operand of one operation left out of the derivative, or of the sum itself.

Each place in reference.py, or in the family's reference that it is made of, where two tensors are added, subtracted or multiplied is a
site. A forgotten product rule, a chain that was cut and a forgotten summand all look like this.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from elmanctl import families
from elmanctl.verify.truth import Problem, differentiate

SUMS = {"add", "sub"}
OPERATIONS = SUMS | {"mul", "matmul", "einsum", "div", "__rsub__"}


@dataclass(frozen=True)
class Term:
    """One operand of one operation: where (file, function, bytecode offset, line), which, and whether it leaves the value too."""

    file: str
    function: str
    offset: int
    line: int
    operation: str
    operand: int
    value: bool

    @property
    def name(self) -> str:
        what = "dropped from the sum" if self.value else "not differentiated"
        return f"term dropped: {Path(self.file).stem} line {self.line}, operand {self.operand + 1} of {self.operation} {what}"


class Dropping(TorchFunctionMode):
    """List the terms of a reference while it runs, or drop one of them wherever it occurs."""

    def __init__(self, path: str, drop: Term | None = None):
        super().__init__()
        self.files = {path, *map(str, Path(families.__file__).parent.glob("*.py"))}
        self.drop = drop
        self.found: dict[Term, None] = {}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        if name in OPERATIONS and (frame := self._frame()) is not None:
            place = (frame.f_code.co_filename, frame.f_code.co_name, frame.f_lasti, frame.f_lineno, name.strip("_"))
            first = 1 if name == "einsum" else 0
            tensors = [i for i, a in enumerate(args[first:]) if isinstance(a, Tensor)]
            for i in tensors:
                if args[first + i].requires_grad:
                    self.found[Term(*place, i, False)] = None
                    if name in SUMS and len(tensors) == 2:
                        self.found[Term(*place, i, True)] = None
            drop = self.drop
            if drop is not None and (drop.file, drop.function, drop.offset, drop.line, drop.operation) == place:
                at = first + drop.operand
                other = torch.zeros_like(args[at]) if drop.value else args[at].detach()
                args = (*args[:at], other, *args[at + 1 :])
        return func(*args, **(kwargs or {}))

    def _frame(self):
        frame = sys._getframe(2)
        while frame is not None and frame.f_code.co_filename not in self.files:
            frame = frame.f_back
        return frame


def terms(problem: Problem, path: str) -> list[Term]:
    """Return the terms of a reference whose source is at `path`, in the order in which they are met."""
    with Dropping(path) as dropping:
        differentiate(problem)
    return list(dropping.found)


def without(problem: Problem, path: str, term: Term, exact: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> dict:
    """Return what a right library returns, plus the exact effect of dropping a term; only results that it changes.

    Args:
        exact: results of the reference in fp64.
        right: results of the library.
    """
    with Dropping(path, term):
        wrong = differentiate(problem)
    return {
        n: (right[n].double() + (t - exact[n])).to(right[n].dtype)
        for n, t in wrong.items()
        if not torch.equal(t, exact[n])
    }
