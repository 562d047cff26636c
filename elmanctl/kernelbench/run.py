"""Rows: a model's kernel and its rivals at each shape, timed in turn on one GPU."""

from collections.abc import Callable, Iterator

import msgspec
import torch

from elmanctl.errors import CheckFailed, UserError
from elmanctl.kernelbench import rivals
from elmanctl.kernelbench.clock import Timing, captured, interleaved, rotations
from elmanctl.kernelbench.inputs import Call, capture, least_bytes
from elmanctl.kernelbench.shapes import Shape, sweep
from elmanctl.tensors import evaluate
from elmanctl.variant import Spec
from elmanctl.verify import receipt

OWN = "kernel"
LONGEST_LOOP = 8192  # products in a graph of one launch each; past it the graph itself takes minutes to build


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One contender at one shape. Times in microseconds of a whole pass: median, 10 and 90 per cent quantile; `both` is forward and
    backward with all gradients. `gb_s` and `tflop_s` are of the kernel's declared tensors and work; `note` says why there is no time.
    """

    model: str
    contender: str
    B: int
    T: int
    dim: int
    forward: tuple[float, float, float] | None = None
    both: tuple[float, float, float] | None = None
    gb_s: float | None = None
    tflop_s: float | None = None
    receipt: str = ""
    note: str = ""

    @property
    def step(self) -> tuple[float, float] | None:
        """Return microseconds a time step: forward, and forward and backward."""
        return (self.forward[0] / self.T, self.both[0] / self.T) if self.forward and self.both else None


def vouched(specs: list[Spec], target: str) -> dict[str, str]:
    """Return the receipt of each model for a target, by name.

    Raises:
        UserError: naming every model without one: a kernel that may be wrong is not worth timing.
    """
    found = {spec.name: receipt.find(spec, target) for spec in specs}
    if bare := [f"{name} ({receipt.state(s, target)})" for s in specs if found[name := s.name] is None]:
        raise UserError(
            f"No receipt for {target}: {', '.join(bare)}. Only verified kernels are timed. "
            "Run elmanctl verify NAME --device cuda first."
        )
    return {name: known.source_hash[:12] for name, known in found.items()}


def shapes_of(spec: Spec, base: Shape, axes: list[str], device: torch.device) -> list[Shape]:
    """Return the base shape and the sweeps, without the axis of a width that the kernel does not see."""
    found = {base: None}
    for axis in axes:
        if axis == "dim" and not sees_width(spec, base, device):
            continue
        found |= dict.fromkeys(sweep(base, axis))
    return list(found)


def sees_width(spec: Spec, base: Shape, device: torch.device) -> bool:
    """Return whether the kernel's sizes depend on the layer's width."""
    one, two = (capture(spec, dim, 1, 1, device, 0).sizes for dim in (base.dim, 2 * base.dim))
    return one != two


def rows(spec: Spec, shapes: list[Shape], device: torch.device, vouching: str, seed: int = 42) -> Iterator[Row]:
    """Time a model's kernel and its rivals at each shape, contenders in turn."""
    for shape in shapes:
        call = capture(spec, shape.dim, shape.B, shape.T, device, seed)
        count = rotations(least_bytes(call, both=False), device)
        passes, absent = contenders(spec, call, shape, count, seed, device)
        for name, why in absent.items():
            yield Row(model=spec.name, contender=name, B=shape.B, T=shape.T, dim=shape.dim, note=why)
        timings = {both: time_all(passes, count, both) for both in (False, True)}
        for number, name in enumerate(passes):
            forward, both = timings[False][number], timings[True][number]
            rates = own_rates(call, both) if name == OWN else {}
            yield Row(
                model=spec.name,
                contender=name,
                B=shape.B,
                T=shape.T,
                dim=shape.dim,
                forward=(forward.median, forward.low, forward.high),
                both=(both.median, both.low, both.high),
                receipt=vouching if name == OWN else "",
                **rates,
            )
        del passes, call
        torch.cuda.empty_cache()


def contenders(
    spec: Spec, call: Call, shape: Shape, count: int, seed: int, device: torch.device
) -> tuple[dict[str, rivals.Pass], dict[str, str]]:
    """Return the passes by name, the kernel's own first, and why a rival has none."""
    calls = [
        call,
        *(capture(spec, shape.dim, shape.B, shape.T, device, seed + n) for n in range(1, count)),
    ]
    upstream = call.upstream(call.forward(), seed)

    def own(number: int, both: bool):
        return calls[number].both(upstream) if both else calls[number].forward()

    passes, absent = {OWN: own}, {}
    for name in call.kernel.rivals:
        try:
            if name == "cublas_loop" and shape.T > LONGEST_LOOP:
                raise rivals.Absent(f"a graph of {shape.T} products")
            one = rivals.RIVALS[name](call.sizes, count)
            one(0, True)
            if device.type == "cuda":
                torch.cuda.synchronize()  # an error of its kernels is its own, not the next contender's
        except rivals.Absent as error:
            absent[name] = str(error)
        except (RuntimeError, ValueError, AssertionError) as error:  # sizes that a library refuses, in its own way
            absent[name] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        else:
            passes[name] = one
    return passes, absent


def time_all(passes: dict[str, rivals.Pass], count: int, both: bool) -> list[Timing]:
    """Return the timing of every contender's forward pass, or of `both` passes."""

    def bound(one: rivals.Pass) -> Callable[[int], object]:
        return lambda number: one(number, both)

    return interleaved([captured(bound(one), count) for one in passes.values()], count)


def own_rates(call: Call, both: Timing) -> dict[str, float]:
    """Return GB/s and TFLOP/s of forward and backward together.

    Raises:
        CheckFailed: when a time is not positive, which no clock gives.
    """
    if both.median <= 0:
        raise CheckFailed(f"{call.kernel.package}: a pass of {both.median} us was measured.")
    rates = {"gb_s": least_bytes(call, both=True) / both.median / 1e3}
    if call.kernel.work:
        flops = sum(evaluate(text, call.sizes) for text in call.kernel.work.values())
        rates["tflop_s"] = flops / both.median / 1e6
    return rates


def line(rows: list[Row], model: str, base: Shape, axis: str) -> dict[str, list[tuple[float, float]]]:
    """Return (size, us a step forward and backward) by contender along one sweep, where it has two points or more."""
    shapes = {(s.B, s.T, s.dim) for s in sweep(base, axis)}
    found: dict[str, list[tuple[float, float]]] = {}
    for row in sorted(rows, key=lambda r: getattr(r, axis)):
        if row.model == model and row.step and (row.B, row.T, row.dim) in shapes:
            found.setdefault(row.contender, []).append((getattr(row, axis), row.step[1]))
    return {name: points for name, points in found.items() if len(points) > 1}
