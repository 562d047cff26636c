"""What a user does to a run from outside: find a job, cancel, hold, release, and clear away what nobody needs."""

import shutil
import time
from pathlib import Path
from typing import Any

from elmanctl import plan
from elmanctl.errors import UserError, did_you_mean
from elmanctl.names import EVENTS, PREVIOUS, RUN
from elmanctl.queue import catalog, process, settle
from elmanctl.queue.log import Queue, Refused, read_line
from elmanctl.queue.slurm import Cluster
from elmanctl.queue.snapshot import SNAPSHOTS, is_snapshot
from elmanctl.queue.states import ACTIVE, ENDED, HELD, QUEUED, Job

DAY_SECONDS = 86_400.0


def queue_of(name: str | None) -> Queue:
    """Return a run's queue, by name below runs/ or by path; the newest run's without a name.

    Raises:
        UserError: when there is no such run, or it was not queued.
    """
    folder = plan.find(name)
    if not (folder / EVENTS).exists():
        raise UserError(
            f"{folder} has no queue: it is a single trial, or older than queues. Its records are in its folder."
        )
    return Queue(folder).refresh()


def chosen(queue: Queue, rows: list[str]) -> list[Job]:
    """Return the jobs that are named, all of them without a name.

    Raises:
        UserError: for a name that the run does not have.
    """
    if unknown := next((name for name in rows if name not in queue.jobs), None):
        close = did_you_mean(unknown, queue.jobs)
        raise UserError(f"{queue.run} has no row {unknown}.{close} Rows: {', '.join(list(queue.jobs)[:20])}.")
    return [queue.jobs[name] for name in dict.fromkeys(rows)] if rows else list(queue.jobs.values())


def cancel(queue: Queue, jobs: list[Job], why: str) -> dict[str, str]:
    """Cancel jobs: those that wait at once, those that run by their supervisors. Returns what was done, by label."""
    done = {}
    for job in jobs:
        for _ in range(5):  # it may move on meanwhile
            try:
                done[job.label] = _cancel(queue, queue.refresh().jobs[job.label], why)
                break
            except Refused:
                continue
    return done


def _cancel(queue: Queue, job: Job, why: str) -> str:
    folder = queue.run / job.spec.folder
    if job.state == ENDED and not job.stopped:
        if job.asked == "cancel" and not settle.told(folder):  # whoever cancelled it was killed meanwhile
            settle.cancelled(job, folder)
        return f"has ended already ({job.status})"
    if job.state not in ACTIVE or (job.slurm and Cluster().withdraw(job)):
        job = queue.write("end", job.label, status="interrupted", ask="cancel", why=settle.because(why))
        settle.cancelled(job, folder)
        return "cancelled"
    queue.write("ask", job.label, ask="cancel", why=why)
    if job.slurm:
        return "is being cancelled"
    if process.alive(job.supervisor) or job.supervisor is None:
        return "is being cancelled"
    return "is cancelled as soon as `elmanctl bench --resume` takes the run up; its supervisor is gone"


def hold(queue: Queue, jobs: list[Job], why: str) -> dict[str, str]:
    """Hold jobs that wait. Returns what was done, by label."""
    return _move(queue, jobs, "hold", QUEUED, why)


def release(queue: Queue, jobs: list[Job]) -> dict[str, str]:
    """Let held jobs wait for their turn again. Returns what was done, by label."""
    return _move(queue, jobs, "release", HELD, "")


def _move(queue: Queue, jobs: list[Job], step: str, wanted: str, why: str) -> dict[str, str]:
    done = {}
    for job in jobs:
        try:
            if job.state != wanted:
                raise Refused
            queue.write(step, job.label, why=why)
            done[job.label] = {"hold": "held", "release": "queued"}[step]
        except Refused:
            job = queue.refresh().jobs[job.label]
            done[job.label] = f"stays {job.state}{f' ({job.status})' if job.status and job.state == ENDED else ''}"
    return done


def history(queue: Queue, label: str) -> list[dict[str, Any]]:
    """Return the steps of one job as the log has them."""
    found = []
    for text in queue.path.read_bytes().split(b"\n"):
        event = read_line(text) if text else None
        if event is not None and event.job == label:
            facts = {"attempt": event.attempt, "status": event.status, "device": event.device, "why": event.why}
            found.append({"time": event.time, "step": event.step, **facts})
    return found


def garbage(runs: Path) -> list[tuple[Path, int]]:
    """Return what can go, with its size in bytes: rows of runs that were run anew, and snapshots that no job needs which is yet to end.

    * A folder is a run's, or a snapshot, only where the files beside it or its name say so; everything else is somebody's.
    * A snapshot of the last day stays: a bench that is still in its preflight may have taken it.
    """
    logs, found, snapshots = [runs], [], []
    for place, below, files in catalog.walk(runs):
        folder = Path(place)
        logs += [folder / name for name in below]  # also what is not walked into, such as a link: its jobs count
        if PREVIOUS in below and (RUN in files or EVENTS in files) and not (folder / PREVIOUS).is_symlink():
            found.append(folder / PREVIOUS)
        if SNAPSHOTS in below:
            snapshots += [path for path in (folder / SNAPSHOTS).iterdir() if is_snapshot(path)]
    needed: set[str] = set()
    for run in logs:
        if (run / EVENTS).is_file():
            jobs = Queue(run).refresh().jobs.values()
            needed |= {job.spec.snapshot for job in jobs if job.state != ENDED or job.stopped}
    old = time.time() - DAY_SECONDS
    found += [path for path in snapshots if path.name not in needed and path.stat().st_mtime < old]
    return [(path, size(path)) for path in sorted(found)]


def size(folder: Path) -> int:
    """Return the bytes that a folder's files take."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


def remove(folder: Path) -> None:
    """Delete a folder that `garbage` named.

    Raises:
        UserError: when it cannot be deleted.
    """
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise UserError(f"{folder} cannot be deleted: {error.strerror}. What is left of it can go later.") from error
