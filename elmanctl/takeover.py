"""Which mode of a dense recurrence a trial runs: the kernel where its matrices fit on the device, else library products in each step.

* The second mode (stepwise.py) computes the same and has receipts of its own. A trial that takes it unasked says so before it runs, and its
  record has `cublas` for its execution and the reason among its warnings.
* build, verify and bench --kernels are about the very kernel that they name, and refuse instead.
* Importing this module does not import torch.
"""

import functools
from dataclasses import replace

from elmanctl.records import Trial, rows_each
from elmanctl.tiles import Device, DoesNotFit
from elmanctl.variant import Spec

OPTION, KERNEL, CUBLAS = "recurrence", "kernel", "cublas"
DTYPE = "bfloat16"  # of a training step on CUDA, the only place that has a kernel (step.autocast)


def of_trial(spec: Spec, trial: Trial, device: Device | None) -> tuple[Spec, str]:
    """Return what a trial of a model runs, and why, as `fitting` does."""
    return fitting(spec, trial.dim, rows_each(trial, trial.micro_batches), device)


@functools.lru_cache(256)
def fitting(spec: Spec, dim: int, batch: int, device: Device | None) -> tuple[Spec, str]:
    """Return what runs, and why it is not what was asked for, or an empty text.

    Args:
        dim: model width; batch: rows of one pass.
        device: that the kernel would be divided over (tiles.DEVICES, launch.device); None: the host backend, which holds any width.
    """
    if device is None or getattr(spec.config, OPTION, "") != KERNEL:
        return spec, ""
    try:
        for kernel, constants, sizes in kernels(spec, dim, batch):
            kernel.complete(constants, sizes, DTYPE, device)
    except DoesNotFit as error:
        chosen = replace(spec, config=replace(spec.config, **{OPTION: CUBLAS}))
        reason = f"{error}".partition(" The option ")[0]
        return chosen, f"{spec.name} runs as {chosen.name}, by library products in each step. {reason}"
    return spec, ""


def by_products(spec: Spec) -> bool:
    """Return whether a model's recurrence is in the second mode."""
    return getattr(spec.config, OPTION, "") == CUBLAS


def execution(spec: Spec, device: str) -> str:
    """Return what runs on a device (`cpu` or `cuda`): `kernel`, `cublas`, `reference` or `library`."""
    kind = spec.kind(device)
    return CUBLAS if kind == KERNEL and by_products(spec) else kind


def kernels(spec: Spec, dim: int, batch: int):
    """Return kernel, constants and sizes, of one step, of every recurrence of one layer; nothing is computed."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode  # meta tensors know no autocast

    from elmanctl import ops

    with FakeTensorMode(), torch.no_grad(), ops.recorded() as calls:
        for layer in spec.layers(dim):
            layer(torch.empty(batch, 1, dim), layer.initial_state(batch, "cpu", torch.float32))
    return [(kernel, constants, kernel.sizes(inputs, constants)) for kernel, inputs, constants in calls]
