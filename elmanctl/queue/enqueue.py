"""From a planned bench to jobs in a run's queue, and back to work on a run that was interrupted."""

import contextlib
import itertools
from dataclasses import dataclass, field
from pathlib import Path

from elmanctl import plan
from elmanctl.bench import Bench, Planned
from elmanctl.errors import UserError
from elmanctl.files import read_json, write_json
from elmanctl.names import PREVIOUS
from elmanctl.queue.fit import asked
from elmanctl.queue.log import EVENTS, Queue
from elmanctl.queue.states import ENDED, Slurm, Spec
from elmanctl.records import Budget, Result, Trial
from elmanctl.report.rows import SHOWN
from elmanctl.runlog import RESULT

CHECKPOINT_SECONDS = 300.0
WALL_FACTOR, WALL_SECONDS = 2.0, 3600.0  # of the minutes asked for, and for what does not count as training


@dataclass(frozen=True)
class Limits:
    """What a trial is held to: seconds between checkpoints to go on from, seconds of an attempt (None: from the budget), and
    seconds until a trial that the machine failed is tried again for the first time.
    """

    checkpoint_seconds: float = CHECKPOINT_SECONDS
    wall_seconds: float | None = None
    backoff_seconds: float = 10.0

    def wall(self, budget: Budget) -> float:
        """Return the longest time of an attempt in seconds, 0 for no limit."""
        if self.wall_seconds is not None:
            return self.wall_seconds
        return budget.minutes * 60 * WALL_FACTOR + WALL_SECONDS if budget.minutes is not None else 0.0


@dataclass(frozen=True)
class Enqueued:
    """A run with the labels of the jobs that a call waits for, and notes on rows that are not run."""

    folder: Path
    labels: set[str]
    notes: list[str] = field(default_factory=list)


def todo(bench: Bench, folder: Path, again: bool) -> list[Trial]:
    """Return the trials of a bench that `enqueue` would queue now."""
    jobs = Queue(folder).refresh().jobs
    found = []
    for planned in bench.rows:
        job, old = jobs.get(planned.row.label), result(folder / planned.row.folder)
        waits = job is not None and job.state != ENDED
        if planned.trial is not None and not waits and (again or old is None or old.status not in SHOWN):
            found.append(planned.trial)
    return found


def enqueue(
    bench: Bench,
    folder: Path,
    again: bool,
    limits: Limits,
    snapshot: Path | None = None,
    slurm: Slurm | None = None,
) -> Enqueued:
    """Put the rows of a bench that are still to run into a run's queue, all of them or none.

    * A row that is finished stays, unless `again`; one that waits or runs already is left to it. One that ended otherwise is run anew.
    * What a folder held before moves to `previous/`; nothing is deleted.
    * A row that cannot be built here gets its failed result at once.

    Args:
        folder: the run's; again: run finished rows anew; snapshot: of the sources that the trials run from; slurm: what is asked of Slurm,
            None for this machine.
    """
    queue, labels, notes, chosen = Queue(folder), set(), [], []
    with queue.locked() as file:
        for planned in bench.rows:
            label, place = planned.row.label, folder / planned.row.folder
            job = queue.jobs.get(label)
            if job is not None and job.state != ENDED:
                notes.append(f"{label} is {job.state} in this run already.")
                labels.add(label)
                continue
            old = result(place)
            if old is not None and old.status in SHOWN and not again:
                other = "" if trial_of(place, planned.trial) == planned.trial else ", with other settings than now"
                notes.append(f"{label} is finished{other}; --again runs it anew.")
                continue
            chosen.append(planned)
        jobs = {
            planned.row.label: {
                "spec": spec(bench, planned, limits, snapshot, slurm),
                "micro_batches": planned.trial.micro_batches,
            }
            for planned in chosen
            if planned.trial is not None
        }
        with set_aside(folder, [folder / planned.row.folder for planned in chosen]):
            for planned in chosen:
                if planned.trial is None:
                    problem = planned.row.problem
                    failed = Result(status="failed", steps=0, tokens=0, seconds=0.0, message=problem)
                    write_json(folder / planned.row.folder / RESULT, failed)
                    notes.append(problem)
            queue.write_together(file, "enqueue", jobs)
    return Enqueued(folder, labels | jobs.keys(), notes)


def spec(bench: Bench, planned: Planned, limits: Limits, snapshot: Path | None, slurm: Slurm | None) -> Spec:
    """Return what an attempt at a row needs."""
    return Spec(
        trial=planned.trial,
        folder=planned.row.folder,
        pool=bench.pool,
        slurm=slurm,
        wall_seconds=limits.wall(planned.trial.budget),
        checkpoint_seconds=limits.checkpoint_seconds,
        backoff_seconds=limits.backoff_seconds,
        snapshot=snapshot.name if snapshot else "",
    )


def resume(name: str | None) -> Enqueued:
    """Go on with a run: what was stopped is queued again, what waits or runs is left to the scheduler.

    Raises:
        UserError: when there is no such run, or it has no queue.
    """
    folder = plan.find(name)
    queue = Queue(folder)
    if not (folder / EVENTS).exists():
        raise UserError(f"{folder} has no {EVENTS}: it was not queued by bench, so there is nothing to go on with.")
    with queue.locked() as file:
        stopped = [job for job in queue.jobs.values() if job.stopped]
        facts = {job.label: {"spec": job.spec, "micro_batches": job.micro_batches} for job in stopped}
        queue.write_together(file, "enqueue", facts)
        labels = {job.label for job in queue.jobs.values() if job.state != ENDED}
    return Enqueued(folder, labels, [complaint] if (complaint := queue.complaint()) else [])


def result(place: Path) -> Result | None:
    """Return a row's result, None where there is none that can be read."""
    try:
        return read_json(place / RESULT, Result)
    except UserError:
        return None


def trial_of(place: Path, planned: Trial) -> Trial | None:
    """Return the trial that a row's folder was run with, apart from what was done to fit a device; None where it cannot be read."""
    try:
        return asked(planned).applied(read_json(place / "trial.json", Trial))
    except UserError:
        return None


@contextlib.contextmanager
def set_aside(folder: Path, places: list[Path]):
    """Move what rows' folders hold to `previous/<row>-<n>`; where that or what is then done fails, everything moves back.

    Raises:
        UserError: naming what cannot be moved.
    """
    previous, moved = folder / PREVIOUS, []
    try:
        for place in places:
            kept = None
            if place.exists():
                previous.mkdir(exist_ok=True)
                numbers = (n for n in itertools.count(1) if not (previous / f"{place.name}-{n}").exists())
                kept = place.rename(previous / f"{place.name}-{next(numbers)}")
            moved.append((place, kept))
        yield
    except Exception as error:  # not an interrupt, which may come when all is written
        for place, kept in reversed(moved):
            with contextlib.suppress(OSError):
                (place / RESULT).unlink(missing_ok=True)  # made since, where a row cannot be built
                place.rmdir()
            with contextlib.suppress(OSError):
                if kept is not None:
                    kept.rename(place)
        if not isinstance(error, OSError):
            raise
        what = f"{error.filename or folder}: {error.strerror}"
        raise UserError(
            f"{what}. Nothing was queued, and everything is where it was. Mend that and start bench again."
        ) from error
