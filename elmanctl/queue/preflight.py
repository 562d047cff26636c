"""Before anything is queued: room on the disk, and one real step of each row, with its peak memory, on the device it will run on.

A row whose batch does not fit gives up time for memory until it does (fit.py); one that does not run at all refuses the whole bench, so
that nobody finds it in the morning.
"""

import os
import queue
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from elmanctl.console import note
from elmanctl.errors import CheckFailed, UserError
from elmanctl.files import read_json, write_json
from elmanctl.gpus import locks
from elmanctl.gpus.choice import Pool
from elmanctl.gpus.free import Sampler
from elmanctl.gpus.witness import CPU
from elmanctl.queue import fit as fitting
from elmanctl.queue.supervisor import confinement
from elmanctl.queue.watchdog import SETUP_SECONDS
from elmanctl.records import Budget, Result, Trial
from elmanctl.runlog import RESULT, TRIAL
from elmanctl.sizes import short_bytes

# fp32 weights and two moments of AdamW; checkpoint.KEEP of them, and the one that is being written.
BYTES_A_PARAMETER, CHECKPOINTS = 12, 3
BYTES_A_STEP = 150
STEPS_A_MINUTE = 6000  # of a run by time: 10 ms a step, so that the forecast is rather too large


@dataclass(frozen=True)
class Finding:
    """What one step of a row showed: status, peak memory in bytes, how it had to be taken (fit.py), and a message where it failed."""

    label: str
    status: str
    peak_memory: int | None
    loss_chunks: int = 1
    checkpoint_layers: int = 0
    micro_batches: int = 1
    message: str = ""

    @property
    def fit(self) -> fitting.Fit:
        return fitting.Fit(self.loss_chunks, self.checkpoint_layers, self.micro_batches)


def disk(trials: Iterable[Trial], devices: int, checkpoint_seconds: float) -> int:
    """Return the bytes that a run may need: every row's steps, the checkpoints that are kept, and those of the rows that run at once."""
    trials = list(trials)
    steps = sum(BYTES_A_STEP * forecast(trial) for trial in trials)
    sizes = sorted((trial.params * BYTES_A_PARAMETER * CHECKPOINTS for trial in trials), reverse=True)
    kept = sum(t.params * BYTES_A_PARAMETER * CHECKPOINTS for t in trials if t.training.checkpoint_every)
    return steps + kept + (sum(sizes[:devices]) if checkpoint_seconds else 0)


def forecast(trial: Trial) -> float:
    """Return about how many steps a trial takes; rather too many where its budget is a time."""
    b, t = trial.budget, trial.training
    return b.steps or (b.tokens / (t.batch * t.chunk) if b.tokens else b.minutes * STEPS_A_MINUTE)


def check_disk(runs: Path, need: int) -> None:
    """Refuse a run that the disk has no room for.

    Raises:
        UserError: with what is needed and what there is.
    """
    place = next(path for path in (runs, *runs.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    if need > free:
        raise UserError(
            f"The run may need {short_bytes(need)} below {runs}, mostly for checkpoints, and the disk has {short_bytes(free)} free. "
            "Free some space, run fewer rows at once, or leave checkpoints out with --checkpoint-minutes 0."
        )


def free_now(pool: Pool) -> list[str]:
    """Return the GPUs of a pool that are free now; where none is, say that the rows are first tried in their turn."""
    sampler = Sampler().settle()
    found = [uuid for uuid in pool.uuids if not sampler.reasons(uuid)]
    if not found:
        note("No GPU is free now, so no step of a row is tried before it is queued.")
    return found


def capacity(devices: list[str]) -> int | None:
    """Return the memory of the smallest of some GPUs in bytes; None for the CPU, where nothing says how much a process may have."""
    from elmanctl import gpus

    sizes = [] if CPU in devices else [gpu.memory_total for gpu in gpus.gpus() if gpu.uuid in devices]
    return min(sizes, default=0) or None


def steps(
    trials: list[Trial],
    devices: list[str],
    environment: dict[str, str],
    where: Path,
    groups: dict[str, str] | None = None,
) -> list[Finding]:
    """Run one step of each row, on each device one at a time, and return what they showed in the order of the trials.

    Args:
        groups: by a trial's label the row that it is a seed of; one seed shows what the others need.
        devices: UUIDs of GPUs, or CPU; locked meanwhile. environment: of the trials. where: folder for a folder of the moment.
    Raises:
        CheckFailed: when somebody else has locked every device.
    """
    where.mkdir(parents=True, exist_ok=True)
    kinds = [(groups or {}).get(trial.label) or trial.label for trial in trials]
    firsts: dict[str, Trial] = {}
    for kind, trial in zip(kinds, trials, strict=True):
        firsts.setdefault(kind, trial)
    free: queue.Queue[str] = queue.Queue()
    held = {device: None if device == CPU else locks.acquire(device, "preflight") for device in devices}
    usable = [device for device, lock in held.items() if lock is not None or device == CPU]
    share = 1 if CPU in devices else max((trial.ranks for trial in trials), default=1)
    for first in range(0, len(usable) - share + 1, share):
        free.put(",".join(usable[first : first + share]))
    if free.empty():
        raise CheckFailed(
            "Every chosen GPU was locked just now by somebody else. Try again, or leave preflight out with --no-preflight."
        )
    try:
        with (
            tempfile.TemporaryDirectory(prefix=".preflight-", dir=where) as folder,
            ThreadPoolExecutor(free.qsize()) as pool,
        ):
            places, size = [Path(folder) / str(number) for number in range(len(firsts))], capacity(devices)
            ran = pool.map(lambda trial, place: _one(trial, place, free, environment, size), firsts.values(), places)
            found = dict(zip(firsts, ran, strict=True))
            return [replace(found[kind], label=trial.label) for kind, trial in zip(kinds, trials, strict=True)]
    finally:
        for lock in held.values():
            if lock is not None:
                locks.release(lock)


def check(findings: list[Finding]) -> None:
    """Refuse a bench with a row that does not run.

    Raises:
        CheckFailed: naming each such row.
    """
    if bad := [f"{f.label}: {f.status}. {f.message}" for f in findings if f.status != "ok"]:
        raise CheckFailed(
            "\n".join([*bad, "One step of each row is run before anything is queued; --only leaves rows out."])
        )


def _one(trial: Trial, folder: Path, free: queue.Queue, environment: dict[str, str], size: int | None) -> Finding:
    device, tried, ended = free.get(), {}, {}
    try:
        while (fit := fitting.following(trial, tried, size)) is not None:
            result = ended[fit] = run_step(fit.applied(trial), folder, device, environment)
            tried[fit] = result.peak_memory_bytes or 0 if result.status == "ok" else None
            if result.status not in ("ok", "oom"):
                break
    finally:
        free.put(device)
    # The last that was run: a step of the ladder that fits, or what nothing helps.
    fit, result = next(reversed(ended.items()))
    how = fit.text(trial)
    note(f"{trial.label}: one step {result.status}{memory(result.peak_memory_bytes)}{how and f', {how}'}")
    return Finding(
        trial.label,
        result.status,
        result.peak_memory_bytes,
        fit.loss_chunks,
        fit.checkpoint_layers,
        fit.micro_batches,
        result.message,
    )


def memory(peak: int | None) -> str:
    return "" if peak is None else f", peak memory {short_bytes(peak)}"


def run_step(trial: Trial, folder: Path, device: str, environment: dict[str, str]) -> Result:
    """Run one step of a trial in a process of its own and return its result."""
    training = msgspec.structs.replace(trial.training, eval_batches=0, eval_every=0, checkpoint_every=0)
    write_json(folder / TRIAL, msgspec.structs.replace(trial, budget=Budget(steps=1), training=training))
    call = [sys.executable, "-m", "elmanctl.trial", str(folder)]
    env = {**os.environ, **environment, **confinement(device)}
    try:
        ran = subprocess.run(
            call, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SETUP_SECONDS
        )
    except subprocess.TimeoutExpired:
        message = f"No step within {SETUP_SECONDS / 60:.0f} minutes."
        return Result(status="timeout", steps=0, tokens=0, seconds=0.0, message=message)
    try:
        return read_json(folder / RESULT, Result)
    except UserError:
        last = (ran.stderr.strip().splitlines() or ["no output"])[-1]
        message = f"The trial ended with exit code {ran.returncode}: {last}"
        return Result(status="failed", steps=0, tokens=0, seconds=0.0, message=message)
