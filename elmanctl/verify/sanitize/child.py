"""The process that a sanitizer watches: runs some cases of one kernel, forward and backward, and says where it is.

Reads one JSON object on stdin (`model`, `device`, `target`, `cases`, `seed`); writes one JSON object a line on stdout: `begin` and `end`
of a case, `tensors` (name -> [address, bytes]) before each call, `error` for what the kernel or the runtime refused, and `done`.
"""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from elmanctl import launch
from elmanctl.kernel import Kernel
from elmanctl.plugins.registry import registry
from elmanctl.verify import cases
from elmanctl.verify.plan import Plan, Request
from elmanctl.verify.run import run
from elmanctl.verify.truth import Problem, draw


@dataclass(frozen=True)
class Bare:
    """The kernel, called on tensors that have allocations of their own: what lies past their end is nobody's."""

    kernel: Kernel
    constants: Mapping[str, int]
    device: str = "cpu"

    def forward(self, inputs):
        return launch.run_forward(self.kernel, self.constants, self._own(inputs))

    def backward(self, tensors, gradients):
        return launch.run_backward(self.kernel, self.constants, self._own(tensors), self._own(gradients))

    def _own(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: t.to(self.device) if self.device != "cpu" else t.clone() for name, t in tensors.items()}


def places(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, int]]:
    """Return name -> (address, bytes)."""
    return {name: (t.data_ptr(), t.numel() * t.element_size()) for name, t in tensors.items()}


def problem_of(plan: Plan, text: str, seed: int) -> Problem:
    """Draw a case given as it is printed."""
    case = cases.parse(text, plan.spec, plan.kernel, plan.dtypes, plan.draws)
    return draw(plan.kernel, plan.reference, plan.constants, case, seed)


def say(**what) -> None:
    """Write one line at once: the next call may end the process."""
    print(json.dumps(what), flush=True)


def main() -> None:
    """Run what stdin asks for."""
    os.environ.pop("LD_PRELOAD", None)  # it is for this process, not for what it starts
    torch.set_num_threads(1)
    asked = json.load(sys.stdin)
    plan = Plan(Request(registry().resolve(asked["model"]), asked["device"], asked["seed"]))
    library = Bare(plan.kernel, plan.constants, asked["device"])
    with launch.on_host(asked["target"], lambda _, tensors: say(tensors=places(tensors))):
        for text in asked["cases"]:
            say(begin=text)
            try:
                run(library, problem_of(plan, text, asked["seed"]))
            except RuntimeError as error:
                say(error=str(error))
            say(end=text)
    say(done=True)


if __name__ == "__main__":
    main()
