"""What `elmanctl runs show` and `logs` print of a run and of one of its rows."""

import sys
import time
from pathlib import Path
from typing import Any

from elmanctl.errors import UserError
from elmanctl.files import read_json
from elmanctl.gpus import verdict
from elmanctl.queue import control, process
from elmanctl.queue.log import Queue
from elmanctl.queue.states import ACTIVE, ENDED, Job
from elmanctl.records import Result
from elmanctl.runlog import RESULT

TAIL_BYTES = 64 * 1024


def run(queue: Queue) -> list[dict[str, Any]]:
    """Return one row for each job of a run, with the last line of output where it did not end well."""
    return [
        {
            "row": job.label,
            "state": job.status if job.state == ENDED else state(job),
            "attempt": job.attempt,
            "device": job.device,
            "since": stamp(job.since),
            "why": job.why or (last_line(queue.run / job.spec.folder / "log.txt") if troubled(job) else ""),
        }
        for job in queue.jobs.values()
    ]


def troubled(job: Job) -> bool:
    return job.state == ENDED and job.status not in ("ok", "contaminated")


def state(job: Job) -> str:
    """Return a job's state; `lost` where its supervisor is gone."""
    lost = (
        job.state in ACTIVE
        and job.supervisor
        and not job.slurm
        and not process.elsewhere(job.supervisor)
        and not process.alive(job.supervisor)
    )
    return "lost" if lost else job.state


def row(queue: Queue, label: str) -> dict[str, Any]:
    """Return everything that is known of one row."""
    (job,) = control.chosen(queue, [label])
    folder = queue.run / job.spec.folder
    problems: list[str] = []
    known = {"row": label, "state": state(job), "status": job.status, "folder": str(folder), "trial": job.spec.trial}
    for name, path, kind in (
        ("result", folder / RESULT, Result),
        ("witness", folder / verdict.VERDICT, verdict.Verdict),
    ):
        known[name] = None
        if path.exists():
            try:
                known[name] = read_json(path, kind)
            except UserError as error:
                problems.append(str(error))
    return {
        **known,
        "problems": problems,
        "snapshot": job.spec.snapshot,
        "steps": control.history(queue, label),
        "last_line": last_line(folder / "log.txt"),
    }


def stamp(seconds: float) -> str:
    """Return a moment in local time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds)) if seconds else ""


def last_line(path: Path) -> str:
    """Return the last line of a file that is not empty, an empty text where there is none."""
    lines = [line for line in tail(path, 5) if line.strip()]
    return lines[-1].strip() if lines else ""


def tail(path: Path, count: int) -> list[str]:
    """Return the last lines of a file, none where it does not exist."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
        return lines[-count:] if count else []
    except FileNotFoundError:
        return []


def follow(queue: Queue, label: str, poll_seconds: float = 0.3) -> None:
    """Write what is added to a row's log.txt to stdout until the row has ended, over all its attempts."""
    (job,) = control.chosen(queue, [label])
    path, offset, inode = queue.run / job.spec.folder / "log.txt", None, None
    while True:
        ended = queue.refresh().jobs[label].state == ENDED
        if path.exists():
            status = path.stat()
            if inode is None:
                offset = status.st_size  # what is older was printed before
            elif status.st_ino != inode or status.st_size < offset:
                offset = 0
            inode = status.st_ino
            with path.open("rb") as file:
                file.seek(offset)
                text = file.read()
            offset += len(text)
            sys.stdout.write(text.decode(errors="replace"))
            sys.stdout.flush()
        elif inode is None:
            inode, offset = 0, 0
        if ended:
            return
        time.sleep(poll_seconds)
