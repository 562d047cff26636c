"""Kernels of a timing run compiled ahead of it, many at a time: one after the other they would take longer than the timing."""

import contextlib
from concurrent.futures import ThreadPoolExecutor

import torch

from elmanctl import build, launch
from elmanctl.kernelbench.inputs import capture
from elmanctl.kernelbench.run import REFUSALS
from elmanctl.kernelbench.shapes import Shape
from elmanctl.variant import Spec

DTYPE = "bfloat16"  # of what is timed


def compile_all(todo: list[tuple[Spec, Shape]], device: torch.device, jobs: int) -> None:
    """Compile what is not yet built for a device, `jobs` kernels at a time; what cannot be built says so when it is timed.

    A layer says on the CPU, on one row and one step, which kernel it calls; rows and steps of the call grow with those of the layer.
    """
    like, wanted = torch.empty(0, device=device), []
    for spec, shape in todo:
        with contextlib.suppress(*REFUSALS):
            call = capture(spec, shape.dim, 1, 1, torch.device("cpu"), 0)
            sizes = {**call.sizes, "B": call.sizes["B"] * shape.B, "T": call.sizes["T"] * shape.T}
            full = launch.build_constants(call.kernel, call.constants, sizes, DTYPE, like)
            wanted.append((call.kernel, full, DTYPE, launch.target_of(like)))

    def one(request) -> None:
        with contextlib.suppress(*REFUSALS):
            build.build(*request)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(one, wanted))
