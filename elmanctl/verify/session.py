"""Run all checks of one configuration in worker processes, gather them in order, and make the receipt."""

import contextlib
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime

import msgspec
import torch

from elmanctl import build, provenance, toolchain
from elmanctl.verify import hashes, kept, pool
from elmanctl.verify.cases import Case
from elmanctl.verify.plan import Plan, Request, Task
from elmanctl.verify.prove.extents import specs_of
from elmanctl.verify.record import Receipt
from elmanctl.verify.run import Check
from elmanctl.verify.sanitize import process

THOROUGH_SECONDS = 3600.0  # of one check, where no time is too long
SANITIZED_SECONDS = 2.0 * process.SECONDS
SHRINK_RUNS, SHRINK_SECONDS = 30, 10.0  # spent on making a failing drawn shape smaller


@dataclass
class Outcome:
    """What verify found for one configuration."""

    request: Request
    target: str
    checks: list[Check] = field(default_factory=list)
    seconds: float = 0.0
    drawn: list[str] = field(default_factory=list)  # those among the checks whose shapes the seed drew
    device_name: str = "host"
    smallest: Check | None = None  # what Hypothesis shrinks a failing one of those to

    @property
    def ok(self) -> bool:
        return all(c.ok for c in self.checks)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted, and ends its workers
    torch.set_num_threads(1)


@contextlib.contextmanager
def workers(count: int) -> Iterator[ProcessPoolExecutor]:
    """Give a pool of forked processes, which have the variant's modules and torch already; end them at once on an error."""
    pool.prepare()
    executor = ProcessPoolExecutor(count, multiprocessing.get_context("fork"), _start_worker)
    try:
        yield executor
    except BaseException:
        for process in (executor._processes or {}).values():
            process.terminate()
        raise
    finally:
        executor.shutdown(cancel_futures=True)


def verify(request: Request, progress: Callable[[int, int], None] | None = None, jobs: int | None = None) -> Outcome:
    """Run every check that a request asks for.

    Args:
        request: what to check.
        progress: called with (done, all) after each check.
        jobs: worker processes; by default one per core.
    """
    started = time.monotonic()
    plan = Plan(request)
    tasks = plan.tasks()
    progress = progress or (lambda done, count: None)
    jobs = jobs or pool.cores()
    seconds = THOROUGH_SECONDS if request.thorough else pool.SECONDS
    torch.backends.cudnn.allow_tf32 = False

    def told(done: int) -> None:
        progress(done, len(tasks))

    if request.device == "cuda":
        checks, facts = on_device(plan, tasks, told, jobs, seconds)
    else:
        calls = [_call(t, None) for t in tasks]
        found = pool.gather(lambda: pool.forked(plan), calls, jobs, seconds, told)
        checks, facts = [_check(t, f) for t, f in zip(tasks, found, strict=True)], plan.device_facts()
    ran = {t.id for t in tasks}
    drawn = [] if request.quick or request.case else [c.id for c in plan.drawn() if c.id in ran]
    small = smallest(plan, [c for c in checks if c.id in drawn]) if request.device == "cpu" else None
    return Outcome(request, facts["target"], checks, time.monotonic() - started, drawn, facts["name"], small)


def smallest(plan: Plan, drawn: list[Check]) -> Check | None:
    """Return the smallest failing case that Hypothesis comes to from the first drawn one that failed; None where none did.

    Cases run in workers as before: a shape that hangs or crashes fails. On the host only, where a worker costs nothing.
    """
    known, deadline = {c.id: c for c in drawn}, time.monotonic() + SHRINK_SECONDS
    dtype = next((c.id.split()[0] for c in drawn if not c.ok), None)

    def passes(case: Case) -> bool:
        if case.id not in known:
            if len(known) >= len(drawn) + SHRINK_RUNS or time.monotonic() > deadline:
                return True
            task = Task(case.id, "case", case)
            (found,) = pool.gather(lambda: pool.forked(plan), [_call(task, None)], 1, SHRINK_SECONDS)
            known[case.id] = _check(task, found)
        return known[case.id].ok

    case = plan.smallest(dtype, passes) if dtype else None
    return known[case.id] if case else None


def _call(task: Task, truth) -> pool.Call:
    """Return the call that runs a check; a sanitizer's own time-out comes first."""
    return pool.Call("run", (task, truth), SANITIZED_SECONDS if task.kind == "sanitize" else None)


def _check(task: Task, found) -> Check:
    """Return a check's outcome; one that was lost failed. Raises what the check did, a mistake in the request for example."""
    if isinstance(found, pool.Lost):
        return Check(task.id, task.kind, False, message=found.text)
    if isinstance(found, BaseException):
        raise found
    return found


def on_device(plan: Plan, tasks: list[Task], told: Callable[[int], None], jobs: int, seconds: float):
    """Establish truths in workers that never touch the device, and run the kernel in one that does.

    Returns:
        the checks in order, and the device's facts.
    """
    truths = pool.gather(lambda: _truth_worker(plan), [pool.Call("truth", (t,)) for t in tasks], jobs, seconds)
    # A truth that could not be established is tried again beside the kernel, where its error becomes the check's.
    known = [None if isinstance(t, (pool.Lost, BaseException)) else t for t in truths]
    calls = [pool.Call("device_facts"), *(_call(t, k) for t, k in zip(tasks, known, strict=True))]
    facts, *found = pool.gather(
        lambda: pool.fresh(plan.request), calls, 1, seconds, lambda done: told(max(0, done - 1))
    )
    if isinstance(facts, BaseException):
        raise facts
    if isinstance(facts, pool.Lost):
        raise RuntimeError(f"The worker on the device: {facts.text}")
    return [_check(t, f) for t, f in zip(tasks, found, strict=True)], facts


def _truth_worker(plan: Plan) -> pool.Worker:
    """Return a worker for truths. A process that has used the device cannot fork ones that differentiate."""
    return pool.fresh(plan.request) if torch.cuda.is_initialized() else pool.forked(plan)


def _figure(ratio: float) -> float:
    """Return a ratio as a receipt keeps it: four decimals; JSON has no infinity."""
    return round(min(ratio, 1e30), 4)


def receipt_of(outcome: Outcome) -> Receipt:
    """Return the receipt of a run: of a complete one that passed, or one that says what failed."""
    request, checks = outcome.request, outcome.checks
    spec = request.spec
    results = {c.id: _figure(c.worst.ratio) for c in checks if c.rows}
    tensors: dict[str, float] = {}
    for row in (row for c in checks for row in c.rows):
        tensors[row.tensor] = max(tensors.get(row.tensor, 0.0), _figure(row.ratio))
    tensor = max(tensors, key=tensors.get, default="")
    kernel, dtypes = spec.variant.kernel(), {t.case.dtype for t in Plan(request).kernel_tasks(request.quick) if t.case}
    constants = spec.variant.module("binding").constants(spec.config) if kernel else {}
    made = Receipt(
        variant=spec.variant.name,
        model=spec.name,
        target=outcome.target,
        source_hash=hashes.source_hash(spec.variant),
        dtypes=tuple(dict.fromkeys(c.id.split()[0] for c in checks if c.kind == "case")) or ("float32",),
        cases=sum(not c.not_run for c in checks),
        worst=tensors.get(tensor, 0.0),
        worst_tensor=tensor,
        seconds=round(outcome.seconds, 1),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        device_name=outcome.device_name,
        seed=request.seed,
        quick=request.quick,
        thorough=request.thorough,
        failed=tuple(c.id for c in checks if not c.ok),
        parts=hashes.parts(spec, outcome.target),
        keys={d: build.key(kernel, constants, d, outcome.target) for d in sorted(dtypes)} if kernel else {},
        compiler=toolchain.compiler(outcome.target)[1].splitlines()[0] if kernel else "",
        results=results,
        tensors=tensors,
        kind="kernel" if spec.variant.has_kernel else "library",
        versions=provenance.versions(spec.variant),
        sanitized=tuple(c.id.removeprefix("sanitize ") for c in checks if c.kind == "sanitize" and not c.not_run),
        scope=hashes.kernel_scope(spec, outcome.target) if kernel else msgspec.UNSET,
        sized=tuple(case.id for case in request.sized) or msgspec.UNSET,
    )
    if request.sized and request.kept:
        return kept.added(request.kept, made)
    return kept.joined(request.kept, made, specs_of(kernel)) if request.kept else made
