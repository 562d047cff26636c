"""Rows: a model's kernel and its rivals at each shape, timed in turn on one GPU."""

import math
import time
from collections.abc import Callable, Iterator

import msgspec
import torch

from elmanctl.errors import CheckFailed, UserError
from elmanctl.kernelbench import compare, rivals
from elmanctl.kernelbench.clock import LEAST_ROUNDS, WARM_ROUNDS, Launched, Timing, captured, interleaved, rotations
from elmanctl.kernelbench.inputs import Call, capture, least_bytes
from elmanctl.kernelbench.shapes import SWEPT_TOKENS, Shape
from elmanctl.tensors import evaluate
from elmanctl.variant import Spec

OWN = "kernel"
LONGEST_LOOP = 2048  # products in a graph of one launch each; past it the graph itself takes long to build
CAPTURES = 3  # runs of each pass before its graph is replayed
# What a contender that cannot run says: sizes, memory, a missing package, a kernel's own error.
REFUSALS = (rivals.Absent, UserError, CheckFailed, RuntimeError, ValueError, AssertionError)


class ContextLost(CheckFailed):
    """An error on the GPU that this process cannot go on after."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One contender at one shape. Times in microseconds of a whole pass: median, 10 and 90 per cent quantile; `both` is forward and
    backward with all gradients. `gb_s` and `tflop_s` are of the kernel's declared tensors and work; `note` says why there is no time, or how it was taken.
    Of the model's own kernel also its variant, and its sizes, elements of state, products and exchanges of a step (compare.facts).
    """

    model: str
    variant: str = ""
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
    sizes: dict[str, int] = {}
    state: int = 0
    products: int = 0
    exchanges: int = 0

    @property
    def step(self) -> tuple[float, float] | None:
        """Return microseconds a time step: forward, and forward and backward."""
        return (self.forward[0] / self.T, self.both[0] / self.T) if self.forward and self.both else None


def sees_width(spec: Spec, base: Shape, device: torch.device) -> bool:
    """Return whether the kernel's sizes depend on the layer's width; no, where it cannot be run, which its row says."""
    try:
        one, two = (capture(spec, dim, 1, 1, device, 0).sizes for dim in (base.dim, base.dim // 2))
    except REFUSALS:
        return False
    return one != two


def rows(
    spec: Spec,
    shapes: list[Shape],
    device: torch.device,
    vouching: str,
    seed: int = 42,
    seconds: float = math.inf,
    alone: bool = False,
) -> Iterator[Row]:
    """Time a model's kernel and its rivals at each shape, contenders in turn; one that cannot be timed is a row with the reason.

    Args:
        alone: leave the rivals out.
        seconds: about how long that may take; shapes have equal shares of what is left.
    """
    deadline = time.monotonic() + seconds
    for number, shape in enumerate(shapes):
        left = deadline - time.monotonic()
        if left <= 0:
            yield row_of(spec, OWN, shape, note=f"not reached in {seconds:g} s")
            continue
        try:
            yield from at(spec, shape, device, vouching, seed, left / (len(shapes) - number), alone)
        except ContextLost:
            raise
        except REFUSALS as error:
            yield row_of(spec, OWN, shape, note=reason(error))
        check_context(device, f"{spec.name} at {shape.text()}")
        if device.type == "cuda":
            torch.cuda.empty_cache()


def check_context(device: torch.device, after: str) -> None:
    """Stop where an error on the GPU has ended this process's use of it, since every later call only repeats that error.

    Raises:
        ContextLost: naming what came before.
    """
    try:
        if device.type == "cuda":
            torch.cuda.synchronize()
    except RuntimeError as error:
        raise ContextLost(
            f"{after} left an error on the GPU that no kernel of this process survives: {reason(error)}. Rows before it are in the record; "
            "time the others in another run, without this size."
        ) from error


def row_of(spec: Spec, contender: str, shape: Shape, **facts) -> Row:
    return Row(
        model=spec.name, variant=spec.variant.name, contender=contender, B=shape.B, T=shape.T, dim=shape.dim, **facts
    )


def reason(error: Exception) -> str:
    """Return the first line of an error and its kind, where that says more."""
    kind = "" if isinstance(error, (UserError, rivals.Absent)) else f"{type(error).__name__}: "
    return f"{kind}{error}".splitlines()[0][:200]


def at(
    spec: Spec, shape: Shape, device: torch.device, vouching: str, seed: int, seconds: float, alone: bool = False
) -> Iterator[Row]:
    """Time all contenders at one shape in about `seconds`."""
    call = capture(spec, shape.dim, shape.B, shape.T, device, seed)
    count = rotations(least_bytes(call, both=False), device)
    passes, why_not = contenders(spec, call, shape, count, seed, device, seconds, alone)
    forward, lost = time_all(passes, count, False, seconds / 4)
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what the graphs of the forward passes held
    both, more = time_all({name: passes[name] for name in forward}, count, True, seconds / 2)
    for name, why in (why_not | lost | more).items():
        yield row_of(spec, name, shape, note=why)
    for name, timing in both.items():
        times = [(t.median, t.low, t.high) for t in (forward[name], timing)]
        own = {"receipt": vouching, **own_rates(call, timing), **compare.facts(call)} if name == OWN else {}
        how = {"note": "launched: no graph holds it"} if name in rivals.LAUNCHED else {}
        yield row_of(spec, name, shape, forward=times[0], both=times[1], **own, **how)


def contenders(
    spec: Spec,
    call: Call,
    shape: Shape,
    count: int,
    seed: int,
    device: torch.device,
    seconds: float = math.inf,
    alone: bool = False,
) -> tuple[dict[str, rivals.Pass], dict[str, str]]:
    """Return the passes by name, the kernel's own first, and why a rival has none: what it lacks, or that it would take too long."""
    calls = [
        call,
        *(capture(spec, shape.dim, shape.B, shape.T, device, seed + n) for n in range(1, count)),
    ]
    upstream = call.upstream(call.forward(), seed)

    def own(number: int, both: bool):
        return calls[number].both(upstream) if both else calls[number].forward()

    passes, absent = {OWN: own}, {}
    for name in () if alone else call.kernel.rivals:
        try:
            if name == "cublas_loop" and shape.T > LONGEST_LOOP:
                raise rivals.Absent(f"a graph of {shape.T} products; its time a step does not depend on T")
            one = rivals.RIVALS[name](call.sizes, count)
            needed = count * (CAPTURES + WARM_ROUNDS + LEAST_ROUNDS) * pass_seconds(one, device)
            if needed > seconds:
                raise rivals.Absent(f"timing it takes {needed:.0f} s, more than its share of --seconds")
        except REFUSALS as error:  # sizes that a library refuses, in its own way
            check_context(device, f"{name} at {shape.text()}")
            absent[name] = reason(error)
        else:
            passes[name] = one
    return passes, absent


def pass_seconds(one: rivals.Pass, device: torch.device) -> float:
    """Return the time of a contender's second pass, forward and backward; in the first it compiles and tunes."""
    for _ in range(2):
        start = time.monotonic()
        one(0, True)
        if device.type == "cuda":
            torch.cuda.synchronize()  # an error of its kernels is its own, not the next contender's
    return time.monotonic() - start


def time_all(
    passes: dict[str, rivals.Pass], count: int, both: bool, seconds: float
) -> tuple[dict[str, Timing], dict[str, str]]:
    """Return the timing of every contender's forward pass, or of `both` passes, and why one has none."""

    def bound(one: rivals.Pass) -> Callable[[int], object]:
        return lambda number: one(number, both)

    graphs, lost = {}, {}
    for name, one in passes.items():
        try:
            graphs[name] = (Launched if name in rivals.LAUNCHED else captured)(bound(one), count)
        except REFUSALS as error:
            lost[name] = reason(error)
    return dict(zip(graphs, interleaved(list(graphs.values()), count, seconds), strict=True)), lost


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


def lines(rows: list[Row], model: str, base: Shape) -> dict[str, tuple[str, str, dict[str, list[tuple[float, float]]]]]:
    """Return what a model's pictures show, by name: the axis, what is fixed, and (size, us a step forward and backward) by contender.

    Along B at each width with the base's T, along the width at each T with the base's B, along T at each width with the base's B, and
    along T with B T fixed; where a contender has two points or more.
    """
    fixed = {
        "B": lambda r: r.T == base.T and f"T={r.T} dim={r.dim}",
        "dim": lambda r: r.B == base.B and f"B={r.B} T={r.T}",
        "T": lambda r: r.B == base.B and f"B={r.B} dim={r.dim}",
        "T ": lambda r: r.B * r.T >= SWEPT_TOKENS and f"BT={r.B * r.T} dim={r.dim}",
    }
    found: dict[str, tuple[str, str, dict[str, list[tuple[float, float]]]]] = {}
    for axis, where in fixed.items():
        for row in sorted(rows, key=lambda r: getattr(r, axis.strip())):
            if row.model == model and row.step and (place := where(row)):
                points = found.setdefault(f"{axis.strip()}_{place.replace(' ', '_')}", (axis.strip(), place, {}))[2]
                points.setdefault(row.contender, []).append((getattr(row, axis.strip()), row.step[1]))
    kept = {
        name: (axis, place, {c: p for c, p in by.items() if len(p) > 1}) for name, (axis, place, by) in found.items()
    }
    return {name: picture for name, picture in kept.items() if picture[2]}
