"""Calls a compiled kernel on tensors: allocation, packing of the argument struct, guard bands.

* `run_forward` and `run_backward` know nothing of autograd; ops.py builds on them, and so does verify.
* `guarded()` fills everything a kernel must write with NaN, between guard bands that are checked after the call.
* `on_host(...)` chooses a sanitized flavour of the host build, `divided(...)` another division than the one that tiles.py chooses.
"""

import contextlib
import contextvars
import functools
import importlib
import struct
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from elmanctl import stepwise
from elmanctl.build import Library, load
from elmanctl.errors import CheckFailed
from elmanctl.flavours import HOST, is_host
from elmanctl.kernel import Kernel
from elmanctl.tensors import DTYPES, ArgumentError, TensorSpec
from elmanctl.tiles import DEVICES, Device
from elmanctl.toolchain import device_target

GUARD = 64  # elements on either side of a guarded tensor
INT_GUARD = -0x5A5A5A5B
BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # integers of as many bytes, to compare floats by bits

Before = Callable[[Library, Mapping[str, Tensor]], None]

_guards: contextvars.ContextVar[list | None] = contextvars.ContextVar("guards", default=None)
_host: contextvars.ContextVar[tuple[str, Before | None]] = contextvars.ContextVar("host", default=(HOST, None))

_division: contextvars.ContextVar[Mapping[str, int] | None] = contextvars.ContextVar("division", default=None)


@contextlib.contextmanager
def divided(constants: Mapping[str, int]):
    """Use these values of a tiling's constants in place of the chosen ones: to measure a division, or to test one at small sizes."""
    token = _division.set(dict(constants))
    try:
        yield
    finally:
        _division.reset(token)


@contextlib.contextmanager
def guarded():
    """Fill what kernels must write with NaN, between guard bands; an access outside raises CheckFailed after the call."""
    token = _guards.set([])
    try:
        yield
    finally:
        _guards.reset(token)


@contextlib.contextmanager
def on_host(target: str, before: Before | None = None):
    """Run kernels on CPU tensors in this flavour of the host build; `before(library, tensors)` precedes every call."""
    token = _host.set((target, before))
    try:
        yield
    finally:
        _host.reset(token)


def dtype_name(dtype: torch.dtype) -> str:
    """Return `float32` for torch.float32."""
    return str(dtype).removeprefix("torch.")


def target_of(tensor: Tensor) -> str:
    """Return the build target for a tensor's device."""
    if tensor.device.type != "cuda":
        return _host.get()[0]
    return _capability(tensor.device.index or 0)


@functools.cache
def _capability(index: int) -> str:
    return device_target(*torch.cuda.get_device_capability(index))


@functools.cache
def device(target: str, index: int = 0) -> Device | None:
    """Return what tilings need to know of a device; None for the host."""
    if is_host(target):
        return None
    found = torch.cuda.get_device_properties(index)
    shared = getattr(found, "shared_memory_per_block_optin", 0) or DEVICES[target].shared_bytes
    return Device(found.multi_processor_count, shared)


def build_constants(kernel: Kernel, constants: Mapping[str, int], sizes, dtype: str, like: Tensor) -> dict[str, int]:
    """Return what a build for these sizes takes, on the device of the tensor `like`."""
    full = kernel.complete(constants, sizes, dtype, device(target_of(like), like.device.index or 0))
    return full | {name: value for name, value in (_division.get() or {}).items() if name in full}


def compute_dtype(kernel: Kernel, tensors: Mapping[str, Tensor]) -> str:
    """Return the name of the dtype of the first compute tensor among the inputs."""
    name = next(
        dtype_name(tensors[s.name].dtype) for s in kernel.input_specs if s.kind == "scalar" and s.name in tensors
    )
    if name not in DTYPES:
        raise ArgumentError(f"{kernel.package}: no kernel computes in {name}. Use {', '.join(DTYPES)}.")
    return name


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
        whole = torch.full((count + 2 * GUARD,), _fill(dtype), dtype=dtype, device=device)
        guards.append((spec, whole))
        result[spec.name] = whole[GUARD : GUARD + count].view(shape)
    return result


def _fill(dtype: torch.dtype) -> float:
    return INT_GUARD if dtype == torch.int32 else float("nan")


def _check_guards(where: str) -> None:
    for spec, whole in _guards.get() or ():
        # By bits: what a kernel writes there may be a NaN too, as the word that marks an exchange's places as absent is.
        bands = torch.cat([whole[:GUARD], whole[-GUARD:]]).view(BITS[whole.element_size()])
        intact = bands == torch.full((1,), _fill(whole.dtype), dtype=whole.dtype, device=whole.device).view(bands.dtype)
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
    library = load(kernel, constants, compute_dtype(kernel, tensors), target_of(first))
    if first.device.type == "cpu" and (before := _host.get()[1]):
        before(library, tensors)
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
    if stepwise.asked(constants):
        kernel.sizes(inputs, constants)
        return stepwise.forward(kernel, constants, inputs)
    scalar, first = compute_dtype(kernel, inputs), next(iter(inputs.values()))
    sizes = kernel.sizes(inputs, constants)
    full = build_constants(kernel, constants, sizes, scalar, first)
    written = [s for s, writable in kernel.forward_arguments if writable]
    new = _allocate(written, sizes | full, constants, scalar, first.device)
    _call(kernel, full, inputs | new, sizes, kernel.forward_arguments, "elman_forward")
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
    if stepwise.asked(constants):
        new = stepwise.backward(kernel, constants, given, given)
    else:
        scalar, first = compute_dtype(kernel, inputs), next(iter(inputs.values()))
        sizes = kernel.sizes(inputs, constants)
        full = build_constants(kernel, constants, sizes, scalar, first)
        written = [s for s, writable in kernel.backward_arguments if writable]
        new = _allocate(written, sizes | full, constants, scalar, first.device)
        _call(kernel, full, given | new, sizes, kernel.backward_arguments, "elman_backward")
    if kernel.after_backward:
        reference = importlib.import_module(f"{kernel.package}.reference")
        new |= getattr(reference, kernel.after_backward)(given | new)
    return {f"d_{name}": new[f"d_{name}"] for name in inputs}
