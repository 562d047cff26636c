"""The only place that registers ops: one generic custom op with its fake and its autograd serves every kernel.

* `recurrence(kernel, inputs, constants)` is what a layer calls. Tensors on a CPU run the variant's PyTorch reference,
  tensors on a CUDA device its kernel; `using(...)` forces another backend. There is no other fall-back.
* `run_forward` and `run_backward` call a compiled kernel without autograd; `guarded()` fills everything a kernel must
  write with NaN, between guard bands that are checked after the call.
"""

import contextlib
import contextvars
import functools
import json
import struct
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from elmanctl.build import load
from elmanctl.errors import CheckFailed
from elmanctl.kernel import ArgumentError, Kernel, TensorSpec
from elmanctl.toolchain import HOST, device_target

BACKENDS = ("reference", "host", "cuda")
GUARD = 64  # elements on either side of a guarded tensor
INT_GUARD = -0x5A5A5A5B

_forced: contextvars.ContextVar[str | None] = contextvars.ContextVar("backend", default=None)
_guards: contextvars.ContextVar[list | None] = contextvars.ContextVar("guards", default=None)
_kernels: dict[str, tuple[Kernel, dict[str, int]]] = {}


@contextlib.contextmanager
def using(backend: str):
    """Run every recurrence inside on one backend: `reference`, `host` (the real kernel, compiled for the CPU) or `cuda`."""
    if backend not in BACKENDS:
        raise ValueError(f"{backend} is not one of {', '.join(BACKENDS)}")
    token = _forced.set(backend)
    try:
        yield
    finally:
        _forced.reset(token)


@contextlib.contextmanager
def guarded():
    """Fill what kernels must write with NaN, between guard bands; an access outside raises CheckFailed after the call."""
    token = _guards.set([])
    try:
        yield
    finally:
        _guards.reset(token)


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
    inputs = _cast(kernel, inputs)
    device = next(t.device.type for t in inputs.values() if t is not None)
    backend = _forced.get() or ("cuda" if device == "cuda" else "reference")
    if (backend == "host") != (device == "cpu") and backend != "reference":
        raise ArgumentError(f"backend {backend} cannot take tensors on {device}.")
    kernel.sizes(inputs, constants)
    if backend == "reference":
        import importlib

        reference = importlib.import_module(f"{kernel.package}.reference")
        full = {spec.name: inputs.get(spec.name) for spec in kernel.input_specs}
        results = reference.forward(**full, constants=constants)
        return dict(zip(kernel.outputs, results, strict=True))
    present = [inputs[s.name] for s in kernel.input_specs if s.present(constants)]
    results = torch.ops.elmanctl.recurrence(_register(kernel, constants), present)
    names = [s.name for s in kernel.output_specs if s.present(constants)]
    return dict(zip(names, results, strict=False))


def _cast(kernel: Kernel, inputs: Mapping[str, Tensor | None]) -> dict[str, Tensor | None]:
    """Give every tensor its declared dtype; the compute dtype is autocast's, else that of the first compute tensor."""
    scalars = [inputs[s.name] for s in kernel.input_specs if s.kind == "scalar" and inputs.get(s.name) is not None]
    device = scalars[0].device.type
    autocast = torch.is_autocast_enabled(device)
    scalar = torch.get_autocast_dtype(device) if autocast else scalars[0].dtype
    result = {}
    for spec in kernel.input_specs:
        tensor = inputs.get(spec.name)
        if tensor is not None:
            wanted = getattr(torch, spec.dtype(_name(scalar)))
            if not autocast and spec.kind == "scalar" and tensor.dtype != wanted:
                raise ArgumentError(
                    f"{spec.name} has dtype {tensor.dtype} but {kernel.package} computes in {scalar} here. Expected {spec.text()}."
                )
            tensor = tensor.to(wanted)
        result[spec.name] = tensor
    return result | {name: t for name, t in inputs.items() if name not in result}


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _register(kernel: Kernel, constants: Mapping[str, int]) -> str:
    """Return the string by which the op finds a kernel with its constants: ops take no Python objects."""
    text = f"{kernel.package}|{json.dumps(dict(constants), sort_keys=True)}"
    _kernels[text] = (kernel, dict(constants))
    return text


def target_of(tensor: Tensor) -> str:
    """Return the build target for a tensor's device."""
    if tensor.device.type != "cuda":
        return HOST
    return _capability(tensor.device.index or 0)


@functools.cache
def _capability(index: int) -> str:
    return device_target(*torch.cuda.get_device_capability(index))


def _scalar(kernel: Kernel, tensors: Mapping[str, Tensor]) -> str:
    return next(_name(tensors[s.name].dtype) for s in kernel.input_specs if s.kind == "scalar" and s.name in tensors)


def _allocate(specs: Sequence[TensorSpec], sizes, constants, scalar: str, device) -> dict[str, Tensor]:
    """Allocate what a kernel writes: empty, or NaN between guard bands inside `guarded()`."""
    guards, result = _guards.get(), {}
    for spec in specs:
        if not spec.present(constants):
            continue
        shape, dtype = spec.shape(sizes), getattr(torch, spec.dtype(scalar))
        if guards is None:
            result[spec.name] = torch.empty(shape, dtype=dtype, device=device)
            continue
        count = 1
        for size in shape:
            count *= size
        fill = INT_GUARD if dtype == torch.int32 else float("nan")
        whole = torch.full((count + 2 * GUARD,), fill, dtype=dtype, device=device)
        guards.append((spec, whole))
        result[spec.name] = whole[GUARD : GUARD + count].view(shape)
    return result


def _check_guards(where: str) -> None:
    for spec, whole in _guards.get() or ():
        bands = torch.cat([whole[:GUARD], whole[-GUARD:]])
        intact = (bands == INT_GUARD) if whole.dtype == torch.int32 else bands.isnan()
        if not bool(intact.all()):
            raise CheckFailed(
                f"{where} wrote outside {spec.text()}: element {int((~intact).nonzero()[0])} of its guard bands changed."
            )
    if _guards.get() is not None:
        _guards.get().clear()


def _pack(arguments, tensors: Mapping[str, Tensor], kernel: Kernel, sizes, device) -> bytes:
    """Pack the C argument struct: pointers (0 for an absent tensor), dimensions as int64, the stream."""
    pointers = [tensors[s.name].data_ptr() if s.name in tensors else 0 for s, _ in arguments]
    stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
    return struct.pack(
        f"{len(pointers)}Q{len(kernel.dims)}qQ", *pointers, *(int(sizes[d]) for d in kernel.dims), stream
    )


def _call(kernel: Kernel, constants, tensors, sizes, arguments, name: str) -> None:
    first = next(iter(tensors.values()))
    library = load(kernel, constants, _scalar(kernel, tensors), target_of(first))
    with torch.cuda.device(first.device) if first.device.type == "cuda" else contextlib.nullcontext():
        library.call(name, _pack(arguments, tensors, kernel, sizes, first.device))
    _check_guards(f"{kernel.package} {name.removeprefix('elman_')}")


def run_forward(kernel: Kernel, constants: Mapping[str, int], inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Call a compiled kernel's forward pass.

    Args:
        inputs: present tensors by name, in their declared dtypes, on one device (which decides the build target).
    Returns:
        outputs and saved tensors by name.
    """
    inputs = {name: t.contiguous() for name, t in inputs.items() if t is not None}
    sizes = kernel.sizes(inputs, constants)
    device = next(iter(inputs.values())).device
    written = [s for s, writable in kernel.forward_arguments if writable]
    new = _allocate(written, sizes, constants, _scalar(kernel, inputs), device)
    _call(kernel, constants, inputs | new, sizes, kernel.forward_arguments, "elman_forward")
    kept = {s.name for s in (*kernel.output_specs, *kernel.saved_specs)}
    return {name: t for name, t in new.items() if name in kept}


def run_backward(
    kernel: Kernel, constants: Mapping[str, int], tensors: Mapping[str, Tensor], output_gradients: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Call a compiled kernel's backward pass and the torch code declared to follow it.

    Args:
        tensors: inputs, outputs and saved tensors by name.
        output_gradients: `d_<output>` by name, one for every output that exists.
    Returns:
        `d_<input>` for every input that exists.
    """
    given = {name: t.contiguous() for name, t in (*tensors.items(), *output_gradients.items()) if t is not None}
    inputs = {name: given[name] for name in kernel.inputs if name in given}
    sizes = kernel.sizes(inputs, constants)
    device = next(iter(inputs.values())).device
    written = [s for s, writable in kernel.backward_arguments if writable]
    new = _allocate(written, sizes, constants, _scalar(kernel, inputs), device)
    _call(kernel, constants, given | new, sizes, kernel.backward_arguments, "elman_backward")
    if kernel.after_backward:
        import importlib

        reference = importlib.import_module(f"{kernel.package}.reference")
        new |= getattr(reference, kernel.after_backward)(given | new)
    return {f"d_{name}": new[f"d_{name}"] for name in inputs}


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
def _recurrence_backward(call: str, kept: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[Tensor]:
    kernel, constants = _kernels[call]
    names = [s.name for s in (*kernel.input_specs, *kernel.output_specs, *kernel.saved_specs) if s.present(constants)]
    upstream = [s.name for s in kernel.output_gradient_specs if s.present(constants)]
    result = run_backward(
        kernel, constants, dict(zip(names, kept, strict=True)), dict(zip(upstream, gradients, strict=True))
    )
    return list(result.values())


@_recurrence.register_fake
def _(call: str, inputs: Sequence[Tensor]) -> list[Tensor]:
    kernel, constants = _kernels[call]
    named = _named_inputs(kernel, constants, inputs)
    sizes, scalar = kernel.sizes(named, constants), _scalar(kernel, named)
    return [
        inputs[0].new_empty(s.shape(sizes), dtype=getattr(torch, s.dtype(scalar)))
        for s in _written_forward(kernel, constants)
    ]


@_recurrence_backward.register_fake
def _(call: str, kept: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[Tensor]:
    kernel, constants = _kernels[call]
    return [
        torch.empty_like(t, memory_format=torch.contiguous_format)
        for t in kept[: sum(s.present(constants) for s in kernel.input_specs)]
    ]


def _setup(ctx, inputs, output) -> None:
    call, tensors = inputs
    ctx.call, ctx.count = call, len(tensors)
    ctx.save_for_backward(*tensors, *output)


def _backward(ctx, gradients):
    kernel, constants = _kernels[ctx.call]
    kept = ctx.saved_tensors
    outputs = kept[ctx.count : ctx.count + sum(s.present(constants) for s in kernel.output_specs)]
    upstream = [torch.zeros_like(o) if g is None else g for g, o in zip(gradients, outputs, strict=False)]
    return None, list(torch.ops.elmanctl.recurrence_backward(ctx.call, list(kept), upstream))


_recurrence.register_autograd(_backward, setup_context=_setup)
