"""What the end of an attempt means: the job's end, or another attempt. Decided from what is on disk, so that anybody may do it again.

Classes: `machine` (killed from outside, lost device, full disk, restart) is tried again after a while, `memory` with smaller
micro-batches and the same batch, everything else (diverged, an error in the code, no end in sight) never.
"""

import re
import signal
from dataclasses import dataclass
from pathlib import Path

import msgspec

from elmanctl.errors import UserError
from elmanctl.files import read_json, write_json
from elmanctl.queue.states import Job
from elmanctl.records import Result, Step, Trial, read_steps, rows_each
from elmanctl.runlog import CHECKPOINTS, RESULT, STEPS, TRIAL, parse_checkpoint_name

RETRIES = 3  # attempts in a row that fail for the machine's sake without the trial getting further
BACKOFF = (1, 6, 30)  # times the job's own first wait
LARGEST_SPLIT = 16
STOPPED = "stopped; `elmanctl bench --resume` goes on"
# What a device or disk in trouble says; an error of the code says something else.
MACHINE = re.compile(
    r"No space left on device|Disk quota exceeded|Stale file handle|Input/output error|uncorrectable ECC|GPU is lost|"
    r"fallen off the bus|no CUDA-capable device|CUDA-capable device\(s\) is/are busy|NVML|hardware stack error|"
    r"CUDA driver initialization failed|CUDA unknown error",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Verdict:
    """What to write: `end` with a status, or `requeue` with the facts of the next attempt."""

    step: str
    facts: dict


def progress(folder: Path) -> int:
    """Return how many steps of a trial its newest checkpoint keeps; 0 without one."""
    place = folder / CHECKPOINTS
    named = [key[0] for p in place.iterdir() if (key := parse_checkpoint_name(p.name))] if place.is_dir() else []
    return max(named, default=0)


def verdict(job: Job, folder: Path, code: int | None = None, limit: str = "", conflict: str = "") -> Verdict:
    """Return what becomes of a job whose attempt has ended, and leave its result.json where it has ended for good.

    Args:
        folder: the trial's folder.
        code: exit code of the trial, negative for a signal; None where nobody saw it.
        limit: which limit it was ended for, if any.
        conflict: who else came to its GPU at the same moment, if anybody.
    """
    result = _result(folder)
    if job.asked and (result is None or result.status in ("interrupted", "failed")):
        why = because(job.reason) if job.asked == "cancel" else STOPPED
        return _end(folder, result, "interrupted", why)
    if conflict:
        return again(job, folder, f"given back: {conflict}", 5.0, job.failures)
    if limit:
        return _end(folder, result, "timeout", limit)
    if result is None or result.status == "interrupted":
        if code is not None and -code not in (0, signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if result is None:
                return _end(folder, None, "failed", f"The trial ended {how(code)} and left no result.")
        elif code == 0 and result is None:
            return _end(folder, None, "failed", "The trial ended with exit code 0 and left no result.")
        ended = f"ended {how(code)}" if code else "ended unseen"
        return retry(job, folder, f"the trial {ended}, which nobody here asked for")
    if result.status == "failed" and MACHINE.search(result.message):
        return retry(job, folder, result.message.splitlines()[0], result)
    if result.status == "oom" and (split := finer(job.spec.trial, job.micro_batches)):
        batch, rows = job.spec.trial.training.batch, rows_each(job.spec.trial, split)
        why = f"out of memory; again in {split} micro-batches of {rows}, the batch stays {batch}"
        return again(job, folder, why, 0.0, job.failures, split)
    return _end(folder, result, result.status, result.message)


def finer(trial: Trial, split: int) -> int | None:
    """Return the next larger number of micro-batches that a trial's batch can be taken in on each of its GPUs; None where there is none."""
    more = split * 2
    return more if more <= LARGEST_SPLIT and trial.training.batch % (more * trial.ranks) == 0 else None


def cancelled(job: Job, folder: Path) -> None:
    """Leave the records of a job that was cancelled before it had ended by itself, so that nobody takes it for one that waits."""
    if not (folder / TRIAL).exists():
        write_json(folder / TRIAL, job.spec.trial)
    _end(folder, _result(folder), "interrupted", job.why)


def told(folder: Path) -> bool:
    """Return whether a trial has a result, and one that does not say that it goes on."""
    result = _result(folder)
    return result is not None and not result.message.startswith(STOPPED)


def because(reason: str) -> str:
    """Return what is said of a job that was cancelled, for the user's reason or for none."""
    return f"cancelled: {reason}" if reason else "cancelled"


def unfinished(folder: Path) -> bool:
    """Return whether a trial has left no result, or was interrupted: there may be more to come."""
    return _result(folder) is None or interrupted(folder)


def interrupted(folder: Path) -> bool:
    """Return whether a trial was stopped in good order."""
    result = _result(folder)
    return result is not None and result.status == "interrupted"


def given_back(job: Job, folder: Path, why: str) -> Verdict:
    """Return what becomes of an attempt that was taken off its machine: another one at once, none lost, unless it had ended."""
    if unfinished(folder) and not job.asked:
        return again(job, folder, why, 0.0, job.failures)
    return verdict(job, folder)


def retry(job: Job, folder: Path, why: str, result: Result | None = None) -> Verdict:
    """Return another attempt after a while, or the end where too many in a row did not get further."""
    failures = 1 if progress(folder) > job.progress else job.failures + 1
    if failures > RETRIES:
        why = f"{why}. Given up after {failures} such attempts without progress"
        return _end(folder, result, "failed", why)
    wait = job.spec.backoff_seconds * BACKOFF[min(failures, len(BACKOFF)) - 1]
    return again(job, folder, why, wait, failures)


def again(job: Job, folder: Path, why: str, wait: float, failures: int, split: int | None = None) -> Verdict:
    """Return another attempt after `wait` seconds."""
    facts = {"why": why, "wait": wait, "failures": failures, "progress": progress(folder)}
    return Verdict("requeue", {**facts, "micro_batches": split or job.micro_batches})


def how(code: int) -> str:
    """Return how a process ended, from its exit code: negative for a signal."""
    if code >= 0:
        return f"with exit code {code}"
    return f"by {signal.Signals(-code).name}" if -code in list(signal.Signals) else f"by signal {-code}"


def _end(folder: Path, result: Result | None, status: str, why: str) -> Verdict:
    if result is None:
        steps = _steps(folder)
        result = Result(
            status=status,
            steps=len(steps),
            tokens=sum(step.tokens for step in steps),
            seconds=steps[-1].seconds if steps else 0.0,
        )
    said = result.message
    if said.startswith(STOPPED):  # which is no longer true of what is cancelled
        said = said.removeprefix(STOPPED).lstrip()
    message = said if said.startswith(why) else f"{why} {said}" if said else why
    if (result.status, result.message) != (status, message) or not (folder / RESULT).exists():
        if status in ("failed", "timeout") and "log.txt" not in message:
            message = f"{message.rstrip('.')}. Its output is in {folder / 'log.txt'}."
        write_json(folder / RESULT, msgspec.structs.replace(result, status=status, message=message))
    return Verdict("end", {"status": status, "why": why.splitlines()[0] if why else ""})


def _result(folder: Path) -> Result | None:
    try:
        return read_json(folder / RESULT, Result)
    except UserError:  # never written, or damaged by whatever ended the trial: it counts as not written
        return None


def _steps(folder: Path) -> list[Step]:
    try:
        return read_steps(folder / STEPS)
    except (FileNotFoundError, UserError):  # never started, or damaged by whatever ended it
        return []
