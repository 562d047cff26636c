"""What happened on a GPU while a trial ran: clocks, power, throttling, temperature, memory, and the processes of others.

`witness.jsonl` in the trial's folder has a Sample a line; `witness.json` the Verdict: `clean`, `contaminated` with the evidence, or
`unwatched`. A contaminated run keeps its numbers and is marked; nothing is dropped.
"""

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from elmanctl import gpus
from elmanctl.files import read_json, write_json
from elmanctl.gpus.free import IDLE_MEMORY
from elmanctl.gpus.nvml import Gpu, GpuProcess
from elmanctl.records import Result
from elmanctl.runlog import RESULT, Lines
from elmanctl.sizes import short_bytes

CPU = "CPU"
SAMPLES, VERDICT = "witness.jsonl", "witness.json"
SAMPLE_SECONDS = 2.0
CONFLICT_SECONDS = 5.0  # after the start: who else found the GPU free in the same moment is there by now
THROTTLED_SHARE = 0.05  # of the samples; single ones come with every change of load
# NVML's bits. A power cap in software is how such a device runs at full load; it is recorded and does not count.
THROTTLES = {0x08: "hardware slowdown", 0x20: "heat (software)", 0x40: "heat (hardware)", 0x80: "power brake"}


class Sample(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One look. Seconds since 1970, MHz, watts, degrees Celsius, bytes, per cent, NVML's throttle bits, processes of others."""

    time: float
    clock: int | None = None
    power: float | None = None
    temperature: int | None = None
    throttle: int = 0
    memory: int = 0
    utilisation: int = 0
    foreign: tuple[str, ...] = ()
    fault: str = ""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What the samples say. Means over all samples; `throttled` is the share of samples with each cause."""

    verdict: str
    evidence: tuple[str, ...] = ()
    samples: int = 0
    clock: float | None = None
    power: float | None = None
    temperature_max: int | None = None
    throttled: dict[str, float] = msgspec.field(default_factory=dict)
    foreign: tuple[str, ...] = ()
    schema: int = 1


def foreign(gpu: Gpu, ours: set[int]) -> list[GpuProcess]:
    """Return the processes on a GPU that are not ours.

    Where NVML counts pids of another namespace (in containers), our own shows as one that does not exist here: one such is ours.
    """
    others = [p for p in gpu.processes if p.pid not in ours]
    if ours and len(others) == len(gpu.processes):
        unseen = next((p for p in others if not os.path.exists(f"/proc/{p.pid}")), None)
        others = [p for p in others if p is not unseen]
    return others


class Witness:
    """Samples one GPU beside a trial.

    Args:
        folder: the trial's folder; device: the GPU's UUID, or CPU, where there is nothing to sample.
        ours: returns the pids of the trial.
    """

    def __init__(self, folder: Path, device: str, ours: Callable[[], set[int]]):
        self.device, self._ours = device, ours
        self._began, self._next, self._checked = time.monotonic(), 0.0, False
        self._lines = None if device == CPU else Lines(folder / SAMPLES)

    def look(self) -> str:
        """Sample if it is time, and return who else came to the GPU just after the start, an empty text otherwise."""
        now = time.monotonic()
        check = not self._checked and now - self._began >= CONFLICT_SECONDS
        if self._lines is None or (now < self._next and not check):
            return ""
        self._next = now + SAMPLE_SECONDS
        sample = self.sample()
        self._lines.append(sample)
        self._checked = self._checked or check
        return f"at the same moment came {', '.join(sample.foreign)}" if check and sample.foreign else ""

    def sample(self) -> Sample:
        """Return how the GPU is now."""
        nvml = gpus.Nvml()
        gpu = next((g for g in nvml.gpus() if g.uuid == self.device), None)
        if gpu is None or gpu.fault:
            return Sample(time=time.time(), fault=gpu.fault if gpu else "no longer visible to NVML")
        vitals = nvml.vitals(self.device)
        return Sample(
            time=time.time(),
            clock=vitals.clock,
            power=vitals.power,
            temperature=vitals.temperature,
            throttle=vitals.throttle,
            memory=gpu.memory_used,
            utilisation=gpu.utilisation,
            foreign=tuple(map(str, foreign(gpu, self._ours()))) if gpu.processes else (),
        )


def judge(samples: list[Sample]) -> Verdict:
    """Return what the samples of a run say."""
    if not samples:
        return Verdict(verdict="unwatched")
    evidence = []
    if seen := [s for s in samples if s.foreign]:
        who = sorted({name for s in seen for name in s.foreign})
        evidence.append(
            f"processes of others on the GPU in {len(seen)} of {len(samples)} samples, "
            f"{_clock(seen[0])} to {_clock(seen[-1])}: {', '.join(who[:5])}"
        )
    shares = {name: sum(bool(s.throttle & bit) for s in samples) / len(samples) for bit, name in THROTTLES.items()}
    evidence += [
        f"throttled by {name} in {share:.0%} of the samples"
        for name, share in shares.items()
        if share > THROTTLED_SHARE
    ]
    if faults := sorted({s.fault for s in samples if s.fault}):
        evidence.append(f"the GPU {', '.join(faults)}")

    def known(name: str) -> list:
        return [value for s in samples if (value := getattr(s, name)) is not None]

    return Verdict(
        verdict="contaminated" if evidence else "clean",
        evidence=tuple(evidence),
        samples=len(samples),
        clock=statistics.fmean(known("clock")) if known("clock") else None,
        power=statistics.fmean(known("power")) if known("power") else None,
        temperature_max=max(known("temperature"), default=None),
        throttled={name: share for name, share in shares.items() if share},
        foreign=tuple(sorted({name for s in seen for name in s.foreign})),
    )


def _clock(sample: Sample) -> str:
    return time.strftime("%H:%M:%S", time.localtime(sample.time))


def read(folder: Path) -> list[Sample]:
    """Read the samples of a trial; damaged lines are left out."""
    path = folder / SAMPLES
    found = []
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            found.append(msgspec.json.decode(line, type=Sample))
        except msgspec.DecodeError:
            continue
    return found


def conclude(folder: Path, status: str) -> str:
    """Write the verdict on a finished trial; an `ok` result that is contaminated is marked so. Returns the status as it then is."""
    samples = read(folder)
    if not samples:
        return status
    verdict = judge(samples)
    write_json(folder / VERDICT, verdict)
    if status != "ok" or verdict.verdict == "clean":
        return status
    result = read_json(folder / RESULT, Result)
    message = f"Contaminated: {'; '.join(verdict.evidence)}."
    write_json(folder / RESULT, msgspec.structs.replace(result, status="contaminated", message=message))
    return "contaminated"


def memory_left(device: str, seconds: float) -> str:
    """Wait until the memory of an ended trial is back, and return a sentence where it is not."""
    if device == CPU:
        return ""
    deadline = time.monotonic() + seconds
    while True:
        gpu = next((g for g in gpus.gpus() if g.uuid == device), None)
        if gpu is None or gpu.processes or gpu.memory_used <= IDLE_MEMORY:  # gone, somebody else's, or back
            return ""
        if time.monotonic() > deadline:
            return f"GPU {gpu.index} still holds {short_bytes(gpu.memory_used)} {seconds:.0f} s after the trial ended."
        time.sleep(0.5)
