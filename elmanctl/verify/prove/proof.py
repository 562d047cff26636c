"""Plant all mutants of one configuration, and say whether verify would notice."""

import functools
import itertools
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

from elmanctl import toolchain
from elmanctl.errors import UserError
from elmanctl.stepwise import asked
from elmanctl.verify import cases
from elmanctl.verify.cases import Case
from elmanctl.verify.plan import QUICK_DTYPES, Plan
from elmanctl.verify.policy import SCORE
from elmanctl.verify.prove import kernel_mutants
from elmanctl.verify.prove.compiling import candidates
from elmanctl.verify.prove.edits import Edit
from elmanctl.verify.prove.extents import EXTENTS
from elmanctl.verify.prove.kernel_mutants import Fate, Original
from elmanctl.verify.prove.trial import Bench
from elmanctl.verify.prove.truth_mutants import Verdict, verdicts
from elmanctl.verify.record import Proof, ShapeScore
from elmanctl.verify.run import Compiled
from elmanctl.verify.session import workers
from elmanctl.verify.truth import Truth, draw, establish

MUTANTS = 100
COUNTED = ("killed", "survived")
EQUIVALENT = ("equivalent", "same code")
LONGEST = 40  # steps: what only shows over longer times is the business of the calibrating tests

Progress = Callable[[str, int, int], None]


@dataclass
class Findings:
    """What was planted and what became of it: verdicts by case, and fates in the order of the sample."""

    truth: dict[str, list[Verdict]] = field(default_factory=dict)
    fates: list[Fate] = field(default_factory=list)
    edits: int = 0  # from which the sample was drawn
    seed: int = 0
    seconds: float = 0.0

    def truth_mutants(self) -> dict[tuple[str, str], list[tuple[str, Verdict]]]:
        """Return (fault, extent) -> its verdicts by case, of those that apply in some case."""
        found: dict[tuple[str, str], list[tuple[str, Verdict]]] = {}
        for case, listed in self.truth.items():
            for v in listed:
                if v.ratio is not None:
                    found.setdefault((v.fault, v.extent), []).append((case, v))
        return found

    def not_applicable(self) -> dict[tuple[str, str], str]:
        """Return (fault, extent) -> why, of those that apply in no case."""
        applies = self.truth_mutants()
        every = [v for listed in self.truth.values() for v in listed]
        return {(v.fault, v.extent): v.reason for v in every if (v.fault, v.extent) not in applies}

    def surviving_truths(self) -> list[str]:
        """Return the truth mutants that no case rejects, and those in full that some case sees and lets pass."""
        survivors = []
        for (fault, extent), found in self.truth_mutants().items():
            passed = [case for case, v in found if v.seen and not v.killed]
            if not any(v.killed for _, v in found):
                survivors.append(f"{fault} ({extent})")
            elif extent == EXTENTS[0] and passed:
                survivors.append(f"{fault} ({extent}) on {', '.join(passed)}")
        return survivors

    def shapes(self) -> list[ShapeScore]:
        """Return what each fp32 case alone showed."""
        scores, counted = [], self.of(*COUNTED)
        for case, listed in self.truth.items():
            seen = [v for v in listed if v.seen]
            missed = [f"{v.fault} ({v.extent})" for v in seen if not v.killed]
            blind = [f.edit.text() for f in counted if case in f.missed]
            killed = sum(case in f.by for f in counted)
            scores.append(
                ShapeScore(
                    case=case,
                    truth_seen=len(seen),
                    truth_killed=sum(v.killed for v in seen),
                    seen=killed + len(blind),
                    killed=killed,
                    missed=(*missed, *blind),
                )
            )
        return scores

    def of(self, *outcomes: str) -> list[Fate]:
        return [f for f in self.fates if f.outcome in outcomes]

    @property
    def score(self) -> float:
        counted = len(self.of(*COUNTED))
        return len(self.of("killed")) / counted if counted else 0.0

    @property
    def ok(self) -> bool:
        return bool(self.truth_mutants()) and not self.surviving_truths() and self.score >= SCORE

    def record(self) -> Proof:
        """Return what a receipt keeps."""
        mutants, survivors, equal = self.truth_mutants(), self.surviving_truths(), self.of(*EQUIVALENT)
        return Proof(
            truth_mutants=len(mutants),
            truth_killed=len(mutants) - len(survivors),
            truth_survivors=tuple(survivors),
            not_applicable=len(self.not_applicable()),
            mutants=len(self.of(*COUNTED)),
            killed=len(self.of("killed")),
            everywhere=sum(f.everywhere for f in self.fates),
            survivors=tuple(f.edit.text() for f in self.of("survived")),
            shapes=tuple(self.shapes()),
            equivalent=len(equal),
            equivalents=tuple(f"{f.edit.text()} ({f.outcome})" for f in equal),
            score=round(self.score, 4),
            seed=self.seed,
            seconds=round(self.seconds, 1),
        )


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


def _verdicts(case: Case) -> list[Verdict]:
    plan = _work.plan
    library = Compiled(plan.kernel, plan.constants)
    return verdicts(library, plan.kernel, plan.reference, plan.constants, case, plan.request.seed)


def _fate(edit: Edit) -> Fate:
    return kernel_mutants.fate(list(_work.benches), _work.original, edit)


def prove(plan: Plan, mutants: int = MUTANTS, progress: Progress | None = None, jobs: int | None = None) -> Findings:
    """Plant truth mutants on every fp32 case, and a sample of kernel mutants; all on the host.

    Args:
        plan: the configuration and the seed; its kernel must pass.
        mutants: how many kernel mutants to judge: those that do not compile or change nothing are replaced by others.
        progress: called with (what, done, all).
    Raises:
        UserError: for a variant without a kernel, or a kernel that is not right.
    """
    global _work
    if not plan.kernel or asked(plan.constants):
        raise UserError(f"{plan.spec.name} has no kernel of its own: there is nothing to plant mistakes in.")
    started, progress = time.monotonic(), progress or (lambda what, done, count: None)
    jobs = jobs or min(8, len(os.sched_getaffinity(0)))
    found = Findings(seed=plan.request.seed)
    _work = _Work(plan)
    try:
        dtypes = [d for d in QUICK_DTYPES if d in plan.dtypes]
        listed = {d: _cases(plan, d) for d in dtypes}
        with workers(jobs) as pool:
            pending = {c.id: pool.submit(_verdicts, c) for c in itertools.chain(*listed[dtypes[0]])}
            truths = {c.id: pool.submit(_truth, c) for d in dtypes for c in itertools.chain(*listed[d])}
            for done, (id, future) in enumerate(pending.items(), 1):
                found.truth[id] = future.result()
                progress("truth mutants on case", done, len(pending))
            known = {id: future.result() for id, future in truths.items()}
        _work = _Work(plan, tuple(_bench(plan, d, *listed[d], known) for d in dtypes))
        _work = _Work(plan, _work.benches, kernel_mutants.original(list(_work.benches)))
        drawn = candidates(toolchain.folder_of(plan.kernel))
        found.edits = len(drawn)
        with workers(jobs) as pool:
            counted = 0
            for fate in _in_order(pool, kernel_mutants.ordered(drawn, found.seed), 2 * jobs):
                found.fates.append(fate)
                counted += fate.outcome in COUNTED
                progress("kernel mutant", counted, mutants)
                if counted >= mutants:
                    break
    except ValueError as error:
        raise UserError(f"{plan.spec.name} cannot be proven: {error}") from error
    finally:
        _work = None
    found.seconds = time.monotonic() - started
    return found


def _cases(plan: Plan, dtype: str) -> tuple[list[Case], list[Case]]:
    """Return the quick cases of a dtype, and the rest of the default ones that are short enough."""
    quick, every = (
        cases.default(plan.spec, plan.kernel, plan.constants, [dtype], plan.draws, quick) for quick in (True, False)
    )
    return quick, [c for c in every if c not in quick and dict(c.sizes).get("T", 1) <= LONGEST]


def _bench(plan: Plan, dtype: str, quick: list[Case], rest: list[Case], known: dict[str, Truth]) -> Bench:
    truths = {c.id: known[c.id] for c in (*quick, *rest)}
    thorough = {
        c.id: draw(plan.kernel, plan.reference, plan.constants, c, plan.request.seed)
        for c in plan.cases([dtype], thorough=True)
    }
    at = quick[min(1, len(quick) - 1)].id
    every = dtype == QUICK_DTYPES[0]
    complete = functools.partial(plan.kernel.complete, plan.constants)
    builds: list[dict[str, int]] = []
    for c in (*quick, *rest):
        full = complete(dict(c.sizes), dtype, None)
        builds += [full] if full not in builds else []
    # Only what the cases' own libraries run: each further tiling would be one more compilation of every mutant.
    thorough = {id: p for id, p in thorough.items() if complete(p.sizes, dtype, None) in builds}
    return Bench(
        plan.kernel, plan.constants, tuple(builds), dtype, truths, _ids(quick), _ids(rest), at, every, thorough
    )


def _ids(listed: list[Case]) -> tuple[str, ...]:
    return tuple(c.id for c in listed)


def _in_order(pool: ProcessPoolExecutor, edits: Iterator[Edit], ahead: int) -> Iterator[Fate]:
    """Yield fates in the order of their edits, with a few in work: the sample does not depend on which is done first."""
    pending = [pool.submit(_fate, e) for e in itertools.islice(edits, ahead)]
    while pending:
        yield pending.pop(0).result()
        pending += [pool.submit(_fate, e) for e in itertools.islice(edits, 1)]
