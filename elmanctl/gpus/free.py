"""Whether a GPU is free, and if not, each reason by name.

The names: `process` (a compute process of anybody), `memory`, `utilisation`, `fault`, `partitioned`, `locked`, `stay-off`,
`masked` (outside an inherited CUDA_VISIBLE_DEVICES) and `vanished`.
"""

import os
import re
import time
from collections import deque

import msgspec

from elmanctl.gpus import locks
from elmanctl.gpus.nvml import Gpu
from elmanctl.sizes import short_bytes

# A device that nobody uses still shows a few hundred MiB that the driver keeps.
IDLE_MEMORY = 2**30
IDLE_UTILISATION = 10
# A trial between two kernels looks idle to a single look.
SAMPLES, SAMPLE_SECONDS = 3, 0.3
VANISHED = "vanished"


class Reason(msgspec.Struct, frozen=True):
    """One reason why a GPU is not free: its name, and a text that goes on after `GPU 3 is`."""

    name: str
    text: str

    def __str__(self) -> str:
        return self.text


def load(gpu: Gpu) -> list[Reason]:
    """Return what NVML tells against using a GPU."""
    found = []
    if gpu.fault:
        found.append(Reason("fault", f"out of order: {gpu.fault}"))
    if gpu.partitioned:
        found.append(Reason("partitioned", "split into MIG instances, which run no trials"))
    if gpu.processes:
        who = ", ".join(map(str, gpu.processes[:3]))
        more = f" and {len(gpu.processes) - 3} more" if len(gpu.processes) > 3 else ""
        found.append(Reason("process", f"in use by another process ({who}{more}; {short_bytes(gpu.memory_used)})"))
        return found
    if gpu.memory_used > IDLE_MEMORY:
        text = f"holding {short_bytes(gpu.memory_used)} of memory, though no process is visible from here"
        found.append(Reason("memory", text))
    if gpu.utilisation > IDLE_UTILISATION:
        found.append(Reason("utilisation", f"{gpu.utilisation} % utilised, though no process is visible from here"))
    return found


def claims(gpu: Gpu) -> list[Reason]:
    """Return who, besides its load, keeps a GPU: a lock, the stay-off list, or a mask of this process."""
    found = []
    if why := locks.off(gpu.uuid):
        found.append(Reason("stay-off", f"on the stay-off list ({why})"))
    if who := locks.holder(gpu.uuid):
        found.append(Reason("locked", f"locked by elmanctl ({who})"))
    mask = os.environ.get("CUDA_VISIBLE_DEVICES")
    if mask is not None and not masked_in(gpu, mask):
        found.append(Reason("masked", f"outside CUDA_VISIBLE_DEVICES={mask}"))
    return found


def masked_in(gpu: Gpu, mask: str) -> bool:
    """Return whether an inherited CUDA_VISIBLE_DEVICES lets a GPU be used; numbers are taken in PCI order."""
    names = [part.strip() for part in mask.split(",")]
    return any(
        int(name) == gpu.index if re.fullmatch("[0-9]+", name) else bool(name) and gpu.uuid.startswith(name)
        for name in names
    )


def reasons(gpu: Gpu) -> list[Reason]:
    """Return every reason why a GPU is not free at this one look."""
    return [*load(gpu), *claims(gpu)]


class Sampler:
    """Remembers the last looks at the box: a GPU is idle only when it was so in each of them.

    Args:
        look: returns the box; by default NVML's, looked up at each call.
    """

    def __init__(self, look=None):
        from elmanctl import gpus

        self._look = look or (lambda: gpus.gpus())
        self._looks: deque[dict[str, Gpu]] = deque(maxlen=SAMPLES)

    def sample(self) -> None:
        """Look once."""
        self._looks.append({gpu.uuid: gpu for gpu in self._look()})

    def settle(self) -> "Sampler":
        """Look as often as a verdict needs; SAMPLES looks take under a second."""
        for number in range(SAMPLES):
            if number:
                time.sleep(SAMPLE_SECONDS)
            self.sample()
            if not self.box:
                break
        return self

    @property
    def box(self) -> list[Gpu]:
        """The GPUs as of the last look, in PCI order."""
        return list(self._looks[-1].values()) if self._looks else []

    def reasons(self, uuid: str) -> list[Reason]:
        """Return every reason why a GPU is not free, as of the last looks and the present locks."""
        last = self._looks[-1].get(uuid) if self._looks else None
        if last is None:
            return [Reason(VANISHED, "no longer visible to NVML")]
        found = [reason for look in reversed(self._looks) if uuid in look for reason in load(look[uuid])]
        if not found and len(self._looks) < SAMPLES:
            found = [Reason("utilisation", "not watched for long enough yet")]
        return [*{reason.name: reason for reason in reversed(found)}.values(), *claims(last)]
