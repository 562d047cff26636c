"""All checks of one configuration: which there are, run in worker processes, gathered in order."""

import contextlib
import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from datetime import UTC, datetime

import torch

from elmanctl import provenance
from elmanctl.errors import UserError, did_you_mean
from elmanctl.records import Receipt
from elmanctl.toolchain import HOST
from elmanctl.variant import Spec
from elmanctl.verify import cases, layers, properties, receipt
from elmanctl.verify.cases import Case
from elmanctl.verify.run import Check, Compiled, run_case
from elmanctl.verify.truth import Truth, draw, establish

QUICK_DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class Task:
    """One check to run: `id` as `--case` takes it, and what it consists of."""

    id: str
    kind: str  # case, property, layer, option
    case: Case | None = None
    name: str = ""
    value: object = None


@dataclass(frozen=True)
class Request:
    """What verify is asked for. `device` is `cpu` or `cuda`; `case` and `dtype` narrow it to a part."""

    spec: Spec
    device: str
    seed: int = 0
    quick: bool = False
    case: str | None = None
    dtype: str | None = None

    @property
    def complete(self) -> bool:
        return self.case is None and self.dtype is None

    @property
    def target(self) -> str:
        if self.device == "cpu":
            return HOST
        from elmanctl.launch import target_of

        return target_of(torch.empty(0, device="cuda"))


@dataclass
class Outcome:
    """What verify found for one configuration."""

    request: Request
    target: str
    checks: list[Check] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return all(c.ok for c in self.checks)


class Plan:
    """The parts of a configuration, and its checks. Built once, before workers are forked."""

    def __init__(self, request: Request):
        spec = self.spec = request.spec
        self.request = request
        self.kernel = spec.variant.kernel()
        if missing := spec.variant.missing():
            raise UserError(
                f"{spec.name} needs {', '.join(missing)}, which cannot be imported. Install: {spec.variant.install}"
            )
        if spec.variant.requires and request.device == "cpu":
            raise UserError(
                f"{spec.name} runs {spec.variant.library} on a GPU only: there is nothing to check on a CPU. Run it with --device cuda."
            )
        self.dtypes: tuple[str, ...] = ("float32",)
        if self.kernel:
            self.constants = spec.variant.module("binding").constants(spec.config)
            self.reference = spec.variant.module("reference")
            self.draws = self.reference.DRAWS
            self.dtypes = cases.allowed_dtypes(self.kernel, HOST if request.device == "cpu" else "device")
        if request.dtype and request.dtype not in self.dtypes:
            raise UserError(
                f"--dtype {request.dtype}: {spec.name} is checked in {', '.join(self.dtypes)} on {request.device}."
            )
        self.where = ({"cpu": "host", "cuda": "cuda"}[request.device]) if self.kernel else "library"

    def tasks(self) -> list[Task]:
        """Return the checks asked for. Raises UserError for a `--case` that names none."""
        request = self.request
        if request.case is not None:
            return [self.named(request.case)]
        found = self.kernel_tasks(request.quick) + self.layer_tasks(request.quick)
        if request.dtype:
            dtype = request.dtype
            found = [t for t in found if (t.case.dtype if t.case else "float32") == dtype]
        return found

    def kernel_tasks(self, quick: bool = False) -> list[Task]:
        if not self.kernel:
            return []
        dtypes = [d for d in self.dtypes if not quick or d in QUICK_DTYPES]
        listed = cases.default(self.spec, self.kernel, self.constants, dtypes, self.draws, quick)
        found = [Task(c.id, "case", c) for c in listed]
        T, other = cases.chunk(self.constants) + 1, cases.other_sizes(self.spec, self.kernel)
        target = HOST if self.request.device == "cpu" else "device"
        for dtype in dtypes[:1] if quick else dtypes:
            case = cases.make(self.kernel, other, dtype, T, self.draws[0])
            found += [Task(f"{dtype} {n}", "property", case, n) for n in properties.names(self.kernel, dtype, target)]
        return found

    def layer_tasks(self, quick: bool = False) -> list[Task]:
        if self.spec.variant.requires:
            return [Task(f"layer {n}", "layer", name=n) for n in ("gradients", "causality", "rows")]
        names = layers.PROPERTIES[:1] if quick else layers.PROPERTIES
        found = [Task(f"layer {n}", "layer", name=n) for n in names]
        if not quick:
            found += [
                Task(f"option {n}={layers.show(v)}", "option", name=n, value=v) for n, v in layers.flips(self.spec)
            ]
        return found

    def named(self, text: str) -> Task:
        """Return the check that `--case` names."""
        known = {t.id: t for t in self.kernel_tasks() + self.layer_tasks()}
        if text in known:
            return known[text]
        if not self.kernel or text.split()[:1] in (["layer"], ["option"]):
            raise UserError(
                f"--case {text!r} is no check of {self.spec.name}.{did_you_mean(text, known)} "
                f"Others: {', '.join(i for i in known if not known[i].case or known[i].kind != 'case')}."
            )
        case = cases.parse(text, self.spec, self.kernel, self.dtypes, self.draws)
        return Task(case.id, "case", case)

    def run(self, task: Task, truth: Truth | None = None) -> Check:
        """Run one check. A mistake in the variant's reference is a failed check; one in the request is a UserError."""
        started, device, seed = time.monotonic(), self.request.device, self.request.seed
        try:
            if task.kind == "layer":
                return layers.check_layer(self.spec, task.name, self.where, device, seed)
            if task.kind == "option":
                return layers.check_option(self.spec, task.name, task.value, self.where, device, seed)
            library = Compiled(self.kernel, self.constants, device)
            if task.kind == "property":
                problem = draw(self.kernel, self.reference, self.constants, task.case, seed)
                return properties.check_property(task.name, library, problem)
            return run_case(library, self.kernel, self.reference, self.constants, task.case, seed, truth)
        except (ValueError, KeyError, RuntimeError) as error:
            text = f"{type(error).__name__}: {error}"
            return Check(task.id, task.kind, False, message=text, seconds=time.monotonic() - started)

    def truth(self, task: Task) -> Truth | None:
        """Return the truth of a case, for a kernel that runs in another process."""
        if task.kind != "case":
            return None
        return establish(draw(self.kernel, self.reference, self.constants, task.case, self.request.seed))


_plan: Plan | None = None  # what forked workers find


def _in_worker(method: str, task: Task):
    torch.set_num_threads(1)
    return getattr(_plan, method)(task)


def workers(count: int) -> ProcessPoolExecutor:
    """Return a pool of forked processes: they have the variant's modules and torch already."""
    return ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("fork"))


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
    return Outcome(request, request.target, checks, time.monotonic() - started)


def _in_pool(tasks: list[Task], progress, jobs: int) -> list[Check]:
    """Run tasks in workers. Where a worker dies, what is left runs one process a task, and the one that dies again fails."""
    done: dict[Task, Check] = {}
    pool = workers(jobs)
    try:
        futures: dict[Future, Task] = {pool.submit(_in_worker, "run", t): t for t in tasks}
        with contextlib.suppress(BrokenProcessPool):
            for future in as_completed(futures):
                done[futures[future]] = future.result()
                progress(len(done), len(tasks))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    for task in tasks:
        if task not in done:
            with workers(1) as single:
                try:
                    done[task] = single.submit(_in_worker, "run", task).result()
                except BrokenProcessPool:
                    done[task] = Check(
                        task.id,
                        task.kind,
                        False,
                        message="the process died while this ran (an invalid access, or out of memory)",
                    )
            progress(len(done), len(tasks))
    return [done[t] for t in tasks]


def _on_device(plan: Plan, tasks: list[Task], progress, jobs: int) -> list[Check]:
    """Establish truths in workers, which never touch the device, and run the kernel in this process."""
    checks = []
    with workers(jobs) as pool:
        truths = [pool.submit(_in_worker, "truth", t) for t in tasks]
        for task, truth in zip(tasks, truths, strict=True):
            try:
                known = truth.result()
            except (ValueError, KeyError) as error:
                checks.append(Check(task.id, task.kind, False, message=f"{type(error).__name__}: {error}"))
            else:
                checks.append(plan.run(task, known))
            progress(len(checks), len(tasks))
    return checks


def receipt_of(outcome: Outcome) -> Receipt:
    """Return the receipt of a complete run that passed."""
    request, checks = outcome.request, outcome.checks
    spec = request.spec
    ranked = [(row.ratio, row.tensor) for c in checks for row in c.rows]
    worst, tensor = max(ranked, default=(0.0, ""))
    return Receipt(
        variant=spec.variant.name,
        model=spec.name,
        target=outcome.target,
        source_hash=receipt.source_hash(spec.variant),
        dtypes=tuple(dict.fromkeys(c.id.split()[0] for c in checks if c.kind == "case")) or ("float32",),
        cases=len(checks),
        worst=round(worst, 4),
        worst_tensor=tensor,
        seconds=round(outcome.seconds, 1),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        device_name=torch.cuda.get_device_name() if request.device == "cuda" else "host",
        seed=request.seed,
        quick=request.quick,
        kind="kernel" if spec.variant.has_kernel else "library",
        versions=provenance.versions(spec.variant),
    )
