"""The only place that registers ops: one generic custom op with its fake and its autograd serves every kernel.

* `recurrence(kernel, inputs, constants)` is what a layer calls. Tensors on a CPU run the variant's PyTorch reference,
  tensors on a CUDA device its kernel; `using(...)` forces another backend. There is no other fall-back.
* `project(x, *weights)` is several linear projections of one input (projections.py).
"""

import contextlib
import importlib
import json
from collections.abc import Mapping, Sequence
from typing import Optional

import torch
from torch import Tensor

from elmanctl.kernel import Kernel
from elmanctl.launch import build_constants, compute_dtype, dtype_name, run_backward, run_forward
from elmanctl.projections import project
from elmanctl.streams import mark
from elmanctl.tensors import ArgumentError, TensorSpec, dtype_of
from elmanctl.zeros import zeros

__all__ = ["project", "recorded", "recurrence", "register", "using"]

BACKENDS = ("reference", "host", "cuda")

_Maybe = Optional[Tensor]  # noqa: UP045, a schema is read from it
_forced: str | None = None  # a plain global: torch.compile guards on it, and cannot trace a context variable
_kernels: dict[str, tuple[Kernel, dict[str, int]]] = {}
_records: list[list[tuple[Kernel, dict[str, Tensor | None], dict[str, int]]]] = []


@contextlib.contextmanager
def using(backend: str):
    """Run every recurrence inside on one backend: `reference`, `host` (the real kernel, compiled for the CPU) or `cuda`."""
    if backend not in BACKENDS:
        raise ValueError(f"{backend} is not one of {', '.join(BACKENDS)}")
    global _forced
    before, _forced = _forced, backend
    try:
        yield
    finally:
        _forced = before


@contextlib.contextmanager
def recorded():
    """Collect (kernel, inputs as the kernel gets them, constants) of every recurrence that runs inside."""
    calls: list[tuple[Kernel, dict[str, Tensor | None], dict[str, int]]] = []
    _records.append(calls)
    try:
        yield calls
    finally:
        _records.remove(calls)


def recurrence(kernel: Kernel, inputs: Mapping[str, Tensor | None], constants: Mapping[str, int]) -> dict[str, Tensor]:
    """Run one recurrence over time, differentiably.

    Args:
        kernel: the declaration in binding.py.
        inputs: name -> tensor as declared, None for an absent one. Under autocast the compute tensors are cast to its dtype;
            `@acc` tensors always to the accumulator's.
        constants: value of every compile-time constant.
    Returns:
        the outputs by name.
    Raises:
        ArgumentError: for tensors that contradict the declaration.
    """
    if torch.compiler.is_compiling():
        call, declared, outputs = _facts(kernel.package, constants)
    else:
        call = register(kernel, constants)
        declared, outputs = _declared(call)
    inputs = _cast(kernel.package, declared, inputs)
    for calls in _records:
        calls.append((kernel, inputs, dict(constants)))
    device = next(t.device.type for t in inputs.values() if t is not None)
    backend = _forced or ("cuda" if device == "cuda" else "reference")
    if (backend == "host") != (device == "cpu") and backend != "reference":
        raise ArgumentError(f"backend {backend} cannot take tensors on {device}.")
    if not torch.compiler.is_compiling():  # which cannot trace the shape language; the op's fake checks there
        kernel.sizes(inputs, constants)
    if backend == "reference":
        reference = importlib.import_module(f"{kernel.package}.reference")
        full = {name: inputs.get(name) for name, _, _, _ in declared}
        results = reference.forward(**full, constants=constants)
        return dict(zip([name for name, _ in outputs], results, strict=True))
    given = [inputs[name] for name, _, present, _ in declared if present]
    if not torch.compiler.is_compiling():
        mark(given[0].device)  # before it: what the next layer begins early then runs beside this recurrence
    results = torch.ops.elmanctl.recurrence(call, given)
    return dict(zip([name for name, present in outputs if present], results, strict=False))


def _cast(package: str, declared, inputs: Mapping[str, Tensor | None]) -> dict[str, Tensor | None]:
    """Give every tensor its declared dtype; the compute dtype is autocast's, else that of the first compute tensor."""
    scalars = [inputs[name] for name, kind, _, _ in declared if kind == "scalar" and inputs.get(name) is not None]
    device = scalars[0].device.type
    autocast = torch.is_autocast_enabled(device)
    scalar = torch.get_autocast_dtype(device) if autocast else scalars[0].dtype
    result = {}
    for name, kind, _, text in declared:
        tensor = inputs.get(name)
        if tensor is not None:
            wanted = getattr(torch, dtype_of(kind, dtype_name(scalar)))
            if not autocast and kind == "scalar" and tensor.dtype != wanted:
                raise ArgumentError(
                    f"{name} has dtype {tensor.dtype} but {package} computes in {scalar} here. Expected {text}."
                )
            tensor = tensor.to(wanted)
        result[name] = tensor
    return result | {name: t for name, t in inputs.items() if name not in result}


def register(kernel: Kernel, constants: Mapping[str, int]) -> str:
    """Return the string by which the op finds a kernel with its constants: ops take no Python objects."""
    text = _name(kernel.package, constants)
    _kernels[text] = (kernel, dict(constants))
    return text


def _name(package: str, constants: Mapping[str, int]) -> str:
    return f"{package}|{json.dumps(dict(constants), sort_keys=True)}"


def _facts(package: str, constants: Mapping[str, int]):
    """Return what a call needs of a declaration, as texts: torch.compile keeps those as constants, but no object of ours.

    Returns:
        the registered name; (name, kind, present, text) of each input; (name, present) of each output.
    """
    call = _name(package, constants)
    if call not in _kernels:  # the first call of a layer may be the compiler's
        register(importlib.import_module(f"{package}.binding").kernel, constants)
    return call, *_declared(call)


def _declared(call: str):
    kernel, constants = _kernels[call]
    inputs = tuple((s.name, s.kind, s.present(constants), s.text()) for s in kernel.input_specs)
    return inputs, tuple((s.name, s.present(constants)) for s in kernel.output_specs)


# As torch.compiler.assume_constant_result does, which takes 2 s to import the compiler.
_facts._dynamo_marked_constant = True


def _written_forward(kernel: Kernel, constants) -> list[TensorSpec]:
    return [s for s in (*kernel.output_specs, *kernel.saved_specs) if s.present(constants)]


def _named_inputs(kernel: Kernel, constants, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
    return dict(zip((s.name for s in kernel.input_specs if s.present(constants)), inputs, strict=True))


@torch.library.custom_op("elmanctl::recurrence", mutates_args=())
def _recurrence(call: str, inputs: Sequence[Tensor]) -> list[Tensor]:
    kernel, constants = _kernels[call]
    written = run_forward(kernel, constants, _named_inputs(kernel, constants, inputs))
    return [written[s.name] for s in _written_forward(kernel, constants)]


@torch.library.custom_op("elmanctl::recurrence_backward", mutates_args=())
def _recurrence_backward(call: str, kept: Sequence[Tensor], gradients: Sequence[_Maybe]) -> list[Tensor]:
    kernel, constants = _kernels[call]
    names = [s.name for s in (*kernel.input_specs, *kernel.output_specs, *kernel.saved_specs) if s.present(constants)]
    tensors = dict(zip(names, kept, strict=True))
    outputs = [s.name for s in kernel.output_specs if s.present(constants)]
    upstream = {
        f"d_{name}": zeros(tensors[name].shape, tensors[name].dtype, tensors[name].device) if given is None else given
        for name, given in zip(outputs, gradients, strict=True)
    }
    return list(run_backward(kernel, constants, tensors, upstream).values())


@_recurrence.register_fake
def _(call: str, inputs: Sequence[Tensor]) -> list[Tensor]:
    kernel, constants = _kernels[call]
    named = _named_inputs(kernel, constants, inputs)
    sizes, scalar = kernel.sizes(named, constants), compute_dtype(kernel, named)
    if kernel.chosen:
        sizes |= build_constants(kernel, constants, sizes, scalar, inputs[0])
    return [
        inputs[0].new_empty(s.shape(sizes), dtype=getattr(torch, s.dtype(scalar)))
        for s in _written_forward(kernel, constants)
    ]


@_recurrence_backward.register_fake
def _(call: str, kept: Sequence[Tensor], gradients: Sequence[_Maybe]) -> list[Tensor]:
    kernel, constants = _kernels[call]
    return [
        torch.empty_like(t, memory_format=torch.contiguous_format)
        for t in kept[: sum(s.present(constants) for s in kernel.input_specs)]
    ]


def _setup(ctx, inputs, output) -> None:
    call, tensors = inputs
    ctx.call = call
    ctx.set_materialize_grads(False)  # zeros for what backward saved, as large as that, would be written and not read
    ctx.save_for_backward(*tensors, *output)


def _backward(ctx, gradients):
    kernel, constants = _kernels[ctx.call]
    upstream = list(
        gradients[: sum(s.present(constants) for s in kernel.output_specs)]
    )  # of what is saved there is none
    return None, list(torch.ops.elmanctl.recurrence_backward(ctx.call, list(ctx.saved_tensors), upstream))


_recurrence.register_autograd(_backward, setup_context=_setup)
