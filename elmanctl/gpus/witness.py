"""What happened on a trial's GPUs while it ran: clocks, power, throttling, temperature, memory, and the processes of others.

`witness.jsonl` in the trial's folder has a Sample a line. What the samples say is in verdict.py.

In a container NVML may list pids of another namespace, or none at all. Of the first kind the one that came first is taken for the
trial's own; of the second none is seen. Each sample says so (`sight`), and the verdict repeats it.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from elmanctl import gpus
from elmanctl.files import DAMAGED
from elmanctl.gpus.free import IDLE_MEMORY
from elmanctl.gpus.nvml import Gpu, GpuProcess
from elmanctl.runlog import STEPS, Lines
from elmanctl.sizes import short_bytes

CPU = "CPU"
SAMPLES = "witness.jsonl"
SAMPLE_SECONDS = 2.0
CONFLICT_SECONDS = 5.0  # after the start: who else found the GPU free in the same moment is there by now
ASSUMED, BLIND = "assumed", "blind"


class Sample(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One look at one GPU. Seconds since 1970, MHz, watts, degrees Celsius, bytes, per cent, NVML's throttle bits, processes of others.

    `gpu` is its UUID; `sight` how far processes are seen: empty by their pids, `assumed` where one of another namespace is taken for
    the trial's own, `blind` where none is listed though memory is in use; `training` whether the attempt has made a step.
    """

    time: float
    gpu: str = ""
    clock: int | None = None
    power: float | None = None
    temperature: int | None = None
    throttle: int = 0
    memory: int = 0
    utilisation: int = 0
    foreign: tuple[str, ...] = ()
    fault: str = ""
    sight: str = ""
    training: bool = False


class Sight:
    """Tells the processes of others on one GPU from a trial's own, over its whole time."""

    def __init__(self):
        self._assumed: int | None = None
        self._seen: set[int] = set()  # ours, in the look before

    def look(self, gpu: Gpu, ours: set[int]) -> tuple[list[GpuProcess], str]:
        """Return the processes that are not ours, and how far that can be told.

        Args:
            ours: pids of the trial, as they are known here.
        """
        # A process that has ended stays in NVML's list until its memory is back: its pid is ours until it has left that list.
        listed = {p.pid for p in gpu.processes}
        self._seen = listed & (ours | self._seen)
        ours = ours | self._seen
        if any(p.pid in ours for p in gpu.processes):
            return [p for p in gpu.processes if p.pid not in ours], ""
        if not gpu.processes:
            return [], BLIND if gpu.memory_used > IDLE_MEMORY else ""
        unseen = [p.pid for p in gpu.processes if not os.path.exists(f"/proc/{p.pid}")]
        if ours and unseen and self._assumed is None:
            self._assumed = unseen[0]  # the GPU was free just before the launch
        others = [p for p in gpu.processes if p.pid != self._assumed]
        return others, ASSUMED if len(others) < len(gpu.processes) else ""


class Witness:
    """Samples the GPUs of a trial beside it.

    Args:
        folder: the trial's folder; devices: UUIDs of its GPUs, or CPU, where there is nothing to sample.
        ours: returns the pids of the trial.
    """

    def __init__(self, folder: Path, devices: tuple[str, ...], ours: Callable[[], set[int]]):
        self.devices, self._ours, self._steps = devices, ours, folder / STEPS
        self._began, self._next, self._checked = time.monotonic(), 0.0, False
        self._wall = time.time()
        self._sights = {device: Sight() for device in devices}
        self._lines = None if CPU in devices or not devices else Lines(folder / SAMPLES)
        if self._lines is not None:  # its supervisor may be another one's successor
            self._lines.mend()

    def look(self) -> str:
        """Sample if it is time, and return who else came to a GPU just after the start, an empty text otherwise."""
        now = time.monotonic()
        check = not self._checked and now - self._began >= CONFLICT_SECONDS
        if self._lines is None or (now < self._next and not check):
            return ""
        self._next = now + SAMPLE_SECONDS
        samples = self.sample()
        for sample in samples:
            self._lines.append(sample)
        self._checked = self._checked or check
        came = [name for sample in samples for name in sample.foreign]
        return f"at the same moment came {', '.join(came)}" if check and came else ""

    def sample(self) -> list[Sample]:
        """Return how each GPU is now."""
        before = self._ours()  # one that ends while NVML is asked is in its list and no longer among ours
        nvml = gpus.Nvml()
        box = {gpu.uuid: gpu for gpu in nvml.gpus()}
        return [self._sample(device, box.get(device), nvml, before) for device in self.devices]

    def _sample(self, device: str, gpu: Gpu | None, nvml: gpus.Nvml, before: set[int]) -> Sample:
        if gpu is None or gpu.fault:
            return Sample(time=time.time(), gpu=device, fault=gpu.fault if gpu else "no longer visible to NVML")
        vitals = nvml.vitals(device)
        others, sight = self._sights[device].look(gpu, before | self._ours() if gpu.processes else set())
        return Sample(
            time=time.time(),
            gpu=device,
            clock=vitals.clock,
            power=vitals.power,
            temperature=vitals.temperature,
            throttle=vitals.throttle,
            memory=gpu.memory_used,
            utilisation=gpu.utilisation,
            foreign=tuple(map(str, others)),
            sight=sight,
            training=self._training(),
        )

    def _training(self) -> bool:
        try:
            return self._steps.stat().st_mtime > self._wall
        except OSError:
            return False


def read(folder: Path) -> list[Sample]:
    """Read the samples of a trial; damaged lines are left out."""
    path = folder / SAMPLES
    found = []
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            found.append(msgspec.json.decode(line, type=Sample))
        except DAMAGED:
            continue
    return found


def memory_left(devices: tuple[str, ...], seconds: float) -> str:
    """Wait until the memory of an ended trial is back, and return a sentence where it is not."""
    deadline = time.monotonic() + seconds
    while CPU not in devices:
        # Where somebody else's process is there, the memory may be his.
        full = [g for g in gpus.gpus() if g.uuid in devices and not g.processes and g.memory_used > IDLE_MEMORY]
        if not full:
            break
        if time.monotonic() > deadline:
            held = ", ".join(f"GPU {g.index} still holds {short_bytes(g.memory_used)}" for g in full)
            return f"{held} {seconds:.0f} s after the trial ended."
        time.sleep(0.5)
    return ""
