"""The GPUs of this machine as NVML sees them: who uses which, which are free, and what `--gpus` means.

* Numbers are NVML's, in PCI order; a child process is given UUIDs, because CUDA's own order may differ.
* Processes of others are only looked at.
"""

import contextlib
import re

import msgspec

from elmanctl.errors import UserError
from elmanctl.sizes import short_bytes
from elmanctl.toolchain import device_target

# A device that nobody uses still shows a few hundred MiB that the driver keeps.
IDLE_MEMORY = 2**30
IDLE_UTILISATION = 10


class GpuProcess(msgspec.Struct, frozen=True):
    """A compute process on a GPU: its pid, device memory in bytes (None where the driver does not tell), owner and command."""

    pid: int
    memory: int | None
    user: str
    command: str


class Gpu(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU at one moment. Memory in bytes, utilisation in per cent."""

    index: int
    uuid: str
    name: str
    memory_total: int
    memory_used: int
    utilisation: int
    capability: tuple[int, int]
    processes: tuple[GpuProcess, ...] = ()

    @property
    def target(self) -> str:
        """The build target of its kernels: `sm_90a`."""
        return device_target(*self.capability)

    @property
    def busy(self) -> str | None:
        """Why the GPU is not free, or None."""
        if self.processes:
            who = ", ".join(f"pid {p.pid} {p.user} {p.command}".rstrip() for p in self.processes[:3])
            more = f" and {len(self.processes) - 3} more" if len(self.processes) > 3 else ""
            return f"in use by another process ({who}{more}; {short_bytes(self.memory_used)})"
        if self.memory_used > IDLE_MEMORY:
            return f"holding {short_bytes(self.memory_used)} of memory, though no process is visible from here"
        if self.utilisation > IDLE_UTILISATION:
            return f"{self.utilisation} % utilised, though no process is visible from here"
        return None


class Nvml:
    """The few NVML calls that are used. `api` is the pynvml module, or a stand-in for it in tests."""

    def __init__(self, api=None):
        if api is None:
            import pynvml as api
        self.api = api

    def gpus(self) -> list[Gpu]:
        """Return every GPU, or an empty list where there is no driver or no device.

        Raises:
            UserError: when there is a driver but a device does not answer.
        """
        try:
            self.api.nvmlInit()
        except self.api.NVMLError:
            return []
        try:
            return [self._gpu(index) for index in range(self.api.nvmlDeviceGetCount())]
        except self.api.NVMLError as error:
            raise UserError(f"NVML does not answer: {error}. `nvidia-smi` may tell which GPU is at fault.") from error
        finally:
            self.api.nvmlShutdown()

    def _gpu(self, index: int) -> Gpu:
        handle = self.api.nvmlDeviceGetHandleByIndex(index)
        memory = self.api.nvmlDeviceGetMemoryInfo(handle)
        return Gpu(
            index=index,
            uuid=_text(self.api.nvmlDeviceGetUUID(handle)),
            name=_text(self.api.nvmlDeviceGetName(handle)),
            memory_total=memory.total,
            memory_used=memory.used,
            utilisation=self._utilisation(handle),
            capability=tuple(self.api.nvmlDeviceGetCudaComputeCapability(handle)),
            processes=tuple(_process(p) for p in self.api.nvmlDeviceGetComputeRunningProcesses(handle)),
        )

    def _utilisation(self, handle) -> int:
        try:
            return self.api.nvmlDeviceGetUtilizationRates(handle).gpu
        except self.api.NVMLError:
            return 0  # a partitioned device does not report it; its processes and memory still count


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _process(entry) -> GpuProcess:
    import psutil

    user = command = ""
    with contextlib.suppress(psutil.Error):  # of another user, in another container, or just ended
        process = psutil.Process(entry.pid)
        user, command = process.username(), process.name()
    return GpuProcess(entry.pid, entry.usedGpuMemory, user, command)


def gpus() -> list[Gpu]:
    """Return the GPUs of this machine in PCI order."""
    return Nvml().gpus()


def select(text: str | None, box: list[Gpu]) -> list[Gpu]:
    """Return the GPUs that `--gpus` names, all of them free; without it, every free one.

    Args:
        text: `all`, or numbers and ranges: `0-5`, `0,2`, `0-2,7`.
        box: the GPUs of the machine.
    Raises:
        UserError: for a text that is no list, a GPU that does not exist, one that is in use, or none free.
    """
    if not box:
        raise UserError(
            "There is no GPU here that NVML can see. `elmanctl bench smoke` runs on the CPU; `--dry-run` shows the plan of any suite."
        )
    free = [gpu for gpu in box if gpu.busy is None]
    if text is None:
        if not free:
            raise UserError("\n".join(["No GPU is free.", *(f"GPU {g.index} is {g.busy}." for g in box)]))
        return free
    chosen = [box[index] for index in indices(text, len(box))]
    if busy := [gpu for gpu in chosen if gpu.busy]:
        lines = [f"GPU {gpu.index} is {gpu.busy}." for gpu in busy]
        numbers = ",".join(str(gpu.index) for gpu in free)
        lines.append(f"Free now: {numbers}. Choose with --gpus {numbers}." if free else "None is free now.")
        raise UserError("\n".join(lines))
    return chosen


def indices(text: str, count: int) -> list[int]:
    """Return the numbers that a `--gpus` text names, in order and each once.

    Raises:
        UserError: for anything but `all`, numbers below `count` and ranges that rise.
    """
    if text.strip() == "all":
        return list(range(count))
    numbers: dict[int, None] = {}
    for part in text.split(","):
        found = re.fullmatch(r"\s*([0-9]+)(?:-([0-9]+))?\s*", part)
        if not found:
            raise UserError(f"--gpus {text}: cannot read {part!r}. Give numbers and ranges such as 0-5 or 0,2, or all.")
        first, last = int(found[1]), int(found[2] or found[1])
        if last < first:
            raise UserError(f"--gpus {text}: the range {first}-{last} runs backwards. Try {last}-{first}.")
        numbers.update(dict.fromkeys(range(first, last + 1)))
    if count and max(numbers) >= count:
        here = "only GPU 0" if count == 1 else f"GPUs 0 to {count - 1}"
        raise UserError(f"--gpus {text}: there is no GPU {max(numbers)}; this machine has {here}.")
    return list(numbers)
