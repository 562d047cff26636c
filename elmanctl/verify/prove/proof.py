"""Plant all mutants of one configuration, and say whether verify would notice."""

import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

from elmanctl import toolchain
from elmanctl.errors import CheckFailed, UserError
from elmanctl.stepwise import asked
from elmanctl.verify import cases, pool
from elmanctl.verify.cases import Case
from elmanctl.verify.drawn import overgrown
from elmanctl.verify.plan import QUICK_DTYPES, Plan
from elmanctl.verify.prove import kernel_mutants
from elmanctl.verify.prove.compiling import candidates
from elmanctl.verify.prove.edits import Edit
from elmanctl.verify.prove.findings import COUNTED, Findings, divisions
from elmanctl.verify.prove.kernel_mutants import Fate, Original
from elmanctl.verify.prove.trial import Bench
from elmanctl.verify.prove.truth_mutants import Verdict, verdicts
from elmanctl.verify.record import MUTANTS
from elmanctl.verify.run import Compiled
from elmanctl.verify.session import workers
from elmanctl.verify.truth import Truth, draw, establish

DIVISIONS = 20  # edits of divisions of the work that are tried
AHEAD = 4  # edits in work for each worker: one that is slow to judge keeps no other waiting
SHORT = 40  # steps of the longest case for truth mutants
LONGEST = cases.LONG  # for edits: what shows over longer times alone is the business of the calibrating tests

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Listed:
    """A dtype's cases: the quick ones, the rest of those on which truth mutants run as well, and those on which edits of the kernel alone do."""

    quick: list[Case]
    rest: list[Case]
    alone: list[Case]

    @property
    def every(self) -> list[Case]:
        return [*self.quick, *self.rest, *self.alone]


@dataclass(frozen=True)
class _Work:
    """What forked workers find."""

    plan: Plan
    benches: tuple[Bench, ...] = ()
    original: Original | None = None


_work: _Work | None = None


def _truth(case: Case) -> Truth:
    plan = _work.plan
    return establish(draw(plan.kernel, plan.reference, plan.constants, case, plan.request.seed))


def _verdicts(case: Case) -> tuple[list[Verdict], Truth]:
    plan, truth = _work.plan, _truth(case)
    library = Compiled(plan.kernel, plan.constants)
    parts = (plan.kernel, plan.reference, plan.constants)
    # A copy without the limits that judging has worked out: they are larger to send than to work out again.
    return verdicts(library, *parts, case, plan.request.seed, truth), dataclasses.replace(truth)


def _original(number: int) -> Original:
    return kernel_mutants.original([_work.benches[number]])


def _fate(edit: Edit) -> Fate:
    benches = list(_work.benches)
    if edit.division:  # right or wrong is the question, not bit-equal or not
        benches = [dataclasses.replace(b, thorough={}, further=None) for b in benches]
    return kernel_mutants.fate(benches, _work.original, edit)


def prove(plan: Plan, mutants: int = MUTANTS, progress: Progress | None = None, jobs: int | None = None) -> Findings:
    """Plant truth mutants on the fp32 cases, and a sample of kernel mutants; all on the host.

    Args:
        plan: the configuration and the seed; its kernel must pass.
        mutants: how many kernel mutants to judge: those that do not compile or change nothing are replaced by others.
        progress: called with (what, done, all).
        jobs: worker processes; by default one per core.
    Raises:
        UserError: for a variant without a kernel, or a kernel that is not right.
        CheckFailed: when a worker process died.
    """
    global _work
    if not plan.kernel or asked(plan.constants):
        raise UserError(f"{plan.spec.name} has no kernel of its own: there is nothing to plant mistakes in.")
    started, progress = time.monotonic(), progress or (lambda what, done, count: None)
    jobs = jobs or pool.cores()
    found = Findings(seed=plan.request.seed)
    _work = _Work(plan)
    try:
        dtypes = [d for d in QUICK_DTYPES if d in plan.dtypes]
        listed = {d: _cases(plan, d) for d in dtypes}
        first = [*listed[dtypes[0]].quick, *listed[dtypes[0]].rest]
        others = [c for d in dtypes for c in listed[d].every if c not in first]
        with workers(jobs) as team:
            pending = {c.id: team.submit(_verdicts, c) for c in sorted(first, key=_rows, reverse=True)}
            truths = {c.id: team.submit(_truth, c) for c in others}
            known: dict[str, Truth] = {}
            for done, c in enumerate(first, 1):
                found.truth[c.id], known[c.id] = pending[c.id].result()
                progress("truth mutants on case", done, len(first))
            known |= {id: future.result() for id, future in truths.items()}
        _work = _Work(plan, tuple(_bench(plan, d, listed[d], known) for d in dtypes))
        found.truth |= {id: [] for id in _work.benches[0].truths if id not in found.truth}
        with workers(jobs) as team:
            parts = list(team.map(_original, range(len(dtypes))))
        _work = _Work(plan, _work.benches, kernel_mutants.joined(parts))
        drawn = candidates(toolchain.folder_of(plan.kernel))
        found.divisions = divisions(drawn)
        planted, divided = ([e for e in drawn if bool(e.division) == part] for part in (False, True))
        found.edits = len(planted)
        with workers(jobs) as team:
            sample = itertools.islice(kernel_mutants.ordered(divided, found.seed), DIVISIONS)
            tried, counted = [team.submit(_fate, e) for e in sample], 0
            for fate in _in_order(team, kernel_mutants.ordered(planted, found.seed), AHEAD * jobs):
                found.fates.append(fate)
                counted += fate.outcome in COUNTED
                progress("kernel mutant", counted, mutants)
                if counted >= mutants:
                    break
            found.divided = [future.result() for future in tried]
    except ValueError as error:
        raise UserError(f"{plan.spec.name} cannot be proven: {error}") from error
    except BrokenProcessPool as error:
        text = f"{plan.spec.name} is not proven: a worker process died, for want of memory perhaps. Try again with fewer --jobs than {jobs}."
        raise CheckFailed(text) from error
    finally:
        _work = None
    found.seconds = time.monotonic() - started
    return found


def _cases(plan: Plan, dtype: str) -> Listed:
    """Return what a whole verify runs in a dtype, but one long case, and no shapes that the seed draws: many would be one more build of each edit.

    Long times and structured inputs are for edits of the kernel: where an input is zero or a gate is shut, what a fault of the truth changes may
    be less than a rounding.
    """
    quick, default = (
        cases.default(plan.spec, plan.kernel, plan.constants, [dtype], plan.draws, quick) for quick in (True, False)
    )
    rest = [c for c in default if c not in quick and _steps(c) <= SHORT]
    long = [c for c in default if SHORT < _steps(c) <= LONGEST]
    return Listed(quick, rest, [*plan.structured([dtype]), *long[:1]])


def _steps(case: Case) -> int:
    return dict(case.sizes).get("T", 1)


def _rows(case: Case) -> int:
    """Return how much work a case is, about."""
    return _steps(case) * dict(case.sizes).get("B", 1)


def _bench(plan: Plan, dtype: str, listed: Listed, known: dict[str, Truth]) -> Bench:
    run = [c for c in listed.every if not overgrown(c, known[c.id].most())]
    quick, rest = _ids(listed.quick), _ids(c for c in run if c not in listed.quick)
    truths = {c.id: known[c.id].prepare() for c in run}
    thorough = {  # but those that the trial runs, whose bits it has compared
        c.id: draw(plan.kernel, plan.reference, plan.constants, c, plan.request.seed)
        for c in plan.cases([dtype], thorough=True)
        if c.id not in truths
    }
    at = quick[min(1, len(quick) - 1)]
    every = dtype == QUICK_DTYPES[0]
    complete = functools.partial(plan.kernel.complete, plan.constants)
    builds: list[dict[str, int]] = []
    for c in run:
        full = complete(dict(c.sizes), dtype, None)
        builds += [full] if full not in builds else []
    # What the cases' own libraries run, and what others do: a further tiling is one more compilation of every mutant.
    others: list[dict[str, int]] = []
    needed = {id: complete(p.sizes, dtype, None) for id, p in thorough.items()}
    for full in needed.values():
        others += [full] if full not in (*builds, *others) else []
    mine, theirs = ({id: p for id, p in thorough.items() if (needed[id] in builds) == own} for own in (True, False))
    bench = Bench(plan.kernel, plan.constants, tuple(builds), dtype, truths, quick, rest, at, every, mine)
    further = dataclasses.replace(bench, builds=tuple(others), quick=(), rest=(), thorough=theirs)
    return dataclasses.replace(bench, further=further) if others else bench


def _ids(listed: Iterable[Case]) -> tuple[str, ...]:
    return tuple(c.id for c in listed)


def _in_order(team: ProcessPoolExecutor, edits: Iterator[Edit], ahead: int) -> Iterator[Fate]:
    """Yield fates in the order of their edits, with a few in work: the sample does not depend on which is done first."""
    pending = [team.submit(_fate, e) for e in itertools.islice(edits, ahead)]
    while pending:
        yield pending.pop(0).result()
        pending += [team.submit(_fate, e) for e in itertools.islice(edits, 1)]
