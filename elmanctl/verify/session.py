"""Run all checks of one configuration in worker processes, gather them in order, and make the receipt."""

import contextlib
import functools
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from datetime import UTC, datetime

import torch

from elmanctl import build, provenance, toolchain
from elmanctl.verify import receipt
from elmanctl.verify.plan import Plan, Request, Task
from elmanctl.verify.record import Receipt
from elmanctl.verify.run import Check

DIED = "the process died while this ran (an invalid access, or out of memory)"


@dataclass
class Outcome:
    """What verify found for one configuration."""

    request: Request
    target: str
    checks: list[Check] = field(default_factory=list)
    seconds: float = 0.0
    drawn: list[str] = field(default_factory=list)  # those among the checks whose shapes the seed drew

    @property
    def ok(self) -> bool:
        return all(c.ok for c in self.checks)


_plan: Plan | None = None  # what forked workers find


def _in_worker(method: str, task: Task):
    return getattr(_plan, method)(task)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted, and ends its workers
    torch.set_num_threads(1)


@contextlib.contextmanager
def workers(count: int) -> Iterator[ProcessPoolExecutor]:
    """Give a pool of forked processes, which have the variant's modules and torch already; end them at once on an error."""
    pool = ProcessPoolExecutor(count, multiprocessing.get_context("fork"), _start_worker)
    try:
        yield pool
    except BaseException:
        for process in (pool._processes or {}).values():
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def verify(request: Request, progress: Callable[[int, int], None] | None = None, jobs: int | None = None) -> Outcome:
    """Run every check that a request asks for.

    Args:
        request: what to check.
        progress: called with (done, all) after each check.
        jobs: worker processes; by default one per core, at most 8.
    """
    global _plan
    started = time.monotonic()
    plan = _plan = Plan(request)
    tasks = plan.tasks()
    progress = progress or (lambda done, count: None)
    jobs = jobs or min(8, len(os.sched_getaffinity(0)))
    torch.backends.cudnn.allow_tf32 = False
    if request.device == "cuda":
        checks = _on_device(plan, tasks, progress, jobs)
    elif jobs == 1 or len(tasks) == 1:
        checks = []
        for task in tasks:
            checks.append(plan.run(task))
            progress(len(checks), len(tasks))
    else:
        checks = _in_pool(tasks, progress, jobs)
    ran = {t.id for t in tasks}
    drawn = [] if request.quick or request.case else [c.id for c in plan.drawn() if c.id in ran]
    return Outcome(request, request.target, checks, time.monotonic() - started, drawn)


def _in_pool(tasks: list[Task], progress, jobs: int) -> list[Check]:
    """Run tasks in workers. Where a worker dies, what is left runs one process a task, and the one that dies again fails."""
    done: dict[Task, Check] = {}
    with workers(jobs) as pool:
        futures: dict[Future, Task] = {pool.submit(_in_worker, "run", t): t for t in tasks}
        with contextlib.suppress(BrokenProcessPool):
            for future in as_completed(futures):
                done[futures[future]] = future.result()
                progress(len(done), len(tasks))
    for task in (t for t in tasks if t not in done):
        with workers(1) as single:
            try:
                done[task] = single.submit(_in_worker, "run", task).result()
            except BrokenProcessPool:
                done[task] = Check(task.id, task.kind, False, message=DIED)
        progress(len(done), len(tasks))
    return [done[t] for t in tasks]


def _on_device(plan: Plan, tasks: list[Task], progress, jobs: int) -> list[Check]:
    """Establish truths in workers, which never touch the device, and run the kernel in this process.

    Once this process has used the device it cannot fork workers that differentiate, so truths are established here.
    """
    checks = []
    with contextlib.ExitStack() as stack:
        if torch.cuda.is_initialized():
            truths = [functools.partial(plan.truth, t) for t in tasks]
        else:
            pool = stack.enter_context(workers(jobs))
            truths = [pool.submit(_in_worker, "truth", t).result for t in tasks]
        for task, truth in zip(tasks, truths, strict=True):
            try:
                known = truth()
            except (ValueError, KeyError) as error:
                checks.append(Check(task.id, task.kind, False, message=f"{type(error).__name__}: {error}"))
            else:
                checks.append(plan.run(task, known))
            progress(len(checks), len(tasks))
    return checks


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
    return Receipt(
        variant=spec.variant.name,
        model=spec.name,
        target=outcome.target,
        source_hash=receipt.source_hash(spec.variant),
        dtypes=tuple(dict.fromkeys(c.id.split()[0] for c in checks if c.kind == "case")) or ("float32",),
        cases=sum(not c.not_run for c in checks),
        worst=tensors.get(tensor, 0.0),
        worst_tensor=tensor,
        seconds=round(outcome.seconds, 1),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        device_name=torch.cuda.get_device_name() if request.device == "cuda" else "host",
        seed=request.seed,
        quick=request.quick,
        thorough=request.thorough,
        failed=tuple(c.id for c in checks if not c.ok),
        parts=receipt.parts(spec.variant, outcome.target),
        keys={d: build.key(kernel, constants, d, outcome.target) for d in sorted(dtypes)} if kernel else {},
        compiler=toolchain.compiler(outcome.target)[1].splitlines()[0] if kernel else "",
        results=results,
        tensors=tensors,
        kind="kernel" if spec.variant.has_kernel else "library",
        versions=provenance.versions(spec.variant),
        sanitized=tuple(c.id.removeprefix("sanitize ") for c in checks if c.kind == "sanitize" and not c.not_run),
    )
