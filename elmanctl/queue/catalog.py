"""Every trial below a folder, whether it waits, runs or has ended: from queues and records, through the index."""

import os
from pathlib import Path
from typing import Any

import msgspec

from elmanctl.errors import UserError
from elmanctl.files import DAMAGED, read_json
from elmanctl.names import EVENTS, PREVIOUS
from elmanctl.queue import process
from elmanctl.queue.index import Index
from elmanctl.queue.log import Queue
from elmanctl.queue.states import ACTIVE, ENDED, Job
from elmanctl.records import Result, Step, Trial, last100_loss, read_steps
from elmanctl.runlog import ATTEMPTS, CHECKPOINTS, RESULT, STEPS, TRIAL

FIELDS = ("run", "model", "dim", "depth", "status", "steps", "last100_loss", "heldout_loss", "message")
ENDED_WITH = ("status", "steps", "last100_loss", "heldout_loss", "message")
HIDDEN = (CHECKPOINTS, ATTEMPTS, PREVIOUS)
TAIL_BYTES = 32 * 1024  # more than 100 steps


def trials(folder: Path, rebuild: bool = False) -> tuple[list[dict[str, Any]], list[str]]:
    """Return one row for each trial below a folder, in order of their paths, and notes on what could not be read.

    A trial of a queue that is not yet done has the state of its job as status: queued, held, running, or `lost` where its supervisor
    is gone and `bench --resume` would take it up.
    """
    rows, notes, places, logs = {}, [], {}, []
    for place, _, files in walk(folder):
        if EVENTS in files:
            logs.append(Path(place))
        if TRIAL in files:
            places[os.path.relpath(place, folder)] = place
    with Index(folder, rebuild) as index:
        for name, place in places.items():
            facts = index.facts(name, stamp(place), lambda place=place: describe(Path(place)))
            rows[name] = {"run": name} | facts
    for run in logs:
        try:
            queue = Queue(run).refresh()
        except UserError as error:
            notes.append(str(error))
            continue
        notes += [text] if (text := queue.complaint()) else []
        base = os.path.relpath(run, folder)
        for job in queue.jobs.values():
            if job.state != ENDED:
                name = os.path.normpath(os.path.join(base, job.spec.folder))
                rows[name] = waiting(name, job) | {
                    k: v for k, v in rows.get(name, {}).items() if k in ("steps", "last100_loss")
                }
    unreadable = sum(row["status"] == "unreadable" for row in rows.values())
    if unreadable:
        notes.append(f"{unreadable} of {len(rows)} trials cannot be read; each says why.")
    return [rows[name] for name in sorted(rows)], [*index.notes, *notes]


def walk(folder: Path):
    """Yield every folder in which a run or trial may lie, as os.walk does: path, folders below it, files."""
    for place, below, files in os.walk(folder):
        seen = sorted(below)
        below[:] = [name for name in seen if name not in HIDDEN and not name.startswith(".")]
        yield place, seen, files


def stamp(place: str) -> str:
    """Return what changes whenever a trial's records do."""
    parts = []
    for name in (TRIAL, RESULT, STEPS):
        try:
            status = os.stat(os.path.join(place, name))
            parts.append(f"{status.st_mtime_ns}.{status.st_size}.{status.st_ino}")
        except OSError:
            parts.append("-")
    return " ".join(parts)


def waiting(name: str, job: Job) -> dict[str, Any]:
    """Return the row of a job that has not ended."""
    trial, status = job.spec.trial, job.state
    if job.state in ACTIVE and job.supervisor is not None and not job.slurm and not process.elsewhere(job.supervisor):
        status = job.state if process.alive(job.supervisor) else "lost"
    row = dict.fromkeys(FIELDS) | {"run": name, "model": trial.model, "dim": trial.dim, "depth": trial.depth}
    return row | {"status": status, "message": job.why}


def last_steps(path: Path) -> list[Step]:
    """Return the last steps of a trial that may still run, 100 and more if there are so many, without reading all of a long file.

    Raises:
        UserError: naming the line that is no Step record.
    """
    with path.open("rb") as file:
        start = max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES)
        file.seek(start)
        lines = file.read().split(b"\n")
    try:  # the first line begins before, the last may still be being written
        return [msgspec.json.decode(line, type=Step) for line in lines[start > 0 : -1] if line]
    except DAMAGED:
        return read_steps(path)


def describe(run: Path) -> dict[str, Any]:
    """Return what a trial's records say; one without a result is `unfinished`: running, or killed."""
    row: dict[str, Any] = dict.fromkeys(FIELDS[1:]) | {"status": "unreadable", "message": ""}
    try:
        trial = read_json(run / TRIAL, Trial)
        row |= {"model": trial.model, "dim": trial.dim, "depth": trial.depth}
        if (run / RESULT).exists():
            result = read_json(run / RESULT, Result)
            return row | {key: getattr(result, key) for key in ENDED_WITH}
        steps = last_steps(run / STEPS) if (run / STEPS).exists() else []
        return row | {
            "status": "unfinished",
            "steps": steps[-1].step if steps else 0,
            "last100_loss": last100_loss(steps),
        }
    except UserError as error:
        return row | {"message": str(error)}
