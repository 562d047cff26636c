"""The few NVML calls that are used, and what they tell of a GPU at one moment."""

import contextlib
import os

import msgspec

from elmanctl.errors import UserError
from elmanctl.toolchain import device_target

UNCORRECTED, VOLATILE = 1, 0  # NVML_MEMORY_ERROR_TYPE_UNCORRECTED, NVML_VOLATILE_ECC
SM_CLOCK, CORE_TEMPERATURE = 1, 0  # NVML_CLOCK_SM, NVML_TEMPERATURE_GPU


class GpuProcess(msgspec.Struct, frozen=True):
    """A compute process on a GPU: its pid, device memory in bytes (None where the driver does not tell), owner and command."""

    pid: int
    memory: int | None
    user: str
    command: str

    def __str__(self) -> str:
        return f"pid {self.pid} {self.user} {self.command}".rstrip()


class Gpu(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU at one moment. Memory in bytes, utilisation in per cent; `fault` says what is wrong with the device itself."""

    index: int
    uuid: str
    name: str
    memory_total: int
    memory_used: int
    utilisation: int
    capability: tuple[int, int]
    processes: tuple[GpuProcess, ...] = ()
    fault: str = ""
    partitioned: bool = False

    @property
    def target(self) -> str:
        """The build target of its kernels: `sm_90a`."""
        return device_target(*self.capability)


class Vitals(msgspec.Struct, frozen=True, kw_only=True):
    """How a GPU ran at one moment: SM clock and its maximum in MHz, power and its limit in watts, degrees Celsius, NVML's throttle bits."""

    clock: int | None = None
    clock_max: int | None = None
    power: float | None = None
    power_limit: float | None = None
    temperature: int | None = None
    throttle: int = 0


class Nvml:
    """NVML through `api`: the pynvml module, the stand-in that ELMANCTL_NVML names, or a test's own."""

    def __init__(self, api=None):
        if api is None and (file := os.environ.get("ELMANCTL_NVML")):
            from elmanctl.gpus.standin import Standin

            api = Standin(file)
        if api is None:
            import pynvml as api
        self.api = api

    @contextlib.contextmanager
    def session(self):
        """Hold the driver open for several calls; yields whether there is one."""
        try:
            self.api.nvmlInit()
        except self.api.NVMLError:
            yield False
            return
        try:
            yield True
        finally:
            self.api.nvmlShutdown()

    def gpus(self) -> list[Gpu]:
        """Return every GPU, or an empty list where there is no driver or no device. One that does not answer has a `fault`.

        Raises:
            UserError: when there is a driver that does not even count its devices.
        """
        with self.session() as driver:
            try:
                return [self._gpu(index) for index in range(self.api.nvmlDeviceGetCount())] if driver else []
            except self.api.NVMLError as error:
                raise UserError(
                    f"NVML does not answer: {error}. `nvidia-smi` may tell which GPU is at fault."
                ) from error

    def vitals(self, uuid: str) -> Vitals:
        """Return how one GPU runs now; what the device does not tell is None."""
        with self.session() as driver:
            try:
                handle = self.api.nvmlDeviceGetHandleByUUID(uuid) if driver else None
            except self.api.NVMLError:
                handle = None
            if handle is None:
                return Vitals()
            milliwatts = self._ask("nvmlDeviceGetPowerUsage", handle)
            limit = self._ask("nvmlDeviceGetEnforcedPowerLimit", handle)
            return Vitals(
                clock=self._ask("nvmlDeviceGetClockInfo", handle, SM_CLOCK),
                clock_max=self._ask("nvmlDeviceGetMaxClockInfo", handle, SM_CLOCK),
                power=None if milliwatts is None else milliwatts / 1000,
                power_limit=None if limit is None else limit / 1000,
                temperature=self._ask("nvmlDeviceGetTemperature", handle, CORE_TEMPERATURE),
                throttle=self._ask("nvmlDeviceGetCurrentClocksThrottleReasons", handle) or 0,
            )

    def _gpu(self, index: int) -> Gpu:
        known = {"uuid": f"unknown-{index}", "name": "", "capability": (0, 0)}
        try:
            handle = self.api.nvmlDeviceGetHandleByIndex(index)
            known["uuid"] = _text(self.api.nvmlDeviceGetUUID(handle))
            known["name"] = _text(self.api.nvmlDeviceGetName(handle))
            known["capability"] = tuple(self.api.nvmlDeviceGetCudaComputeCapability(handle))
            memory = self.api.nvmlDeviceGetMemoryInfo(handle)
            processes = tuple(_process(p) for p in self.api.nvmlDeviceGetComputeRunningProcesses(handle))
        except self.api.NVMLError as error:  # one lost device is no reason to give up the others
            return Gpu(
                index=index, memory_total=0, memory_used=0, utilisation=0, fault=f"does not answer: {error}", **known
            )
        mig = self._ask("nvmlDeviceGetMigMode", handle)
        utilisation = self._ask("nvmlDeviceGetUtilizationRates", handle)
        return Gpu(
            index=index,
            memory_total=memory.total,
            memory_used=memory.used,
            # A partitioned device does not report it; its processes and memory still count.
            utilisation=utilisation.gpu if utilisation else 0,
            processes=processes,
            fault=self._fault(handle),
            partitioned=bool(mig and mig[0]),
            **known,
        )

    def _fault(self, handle) -> str:
        """Return what the driver holds against a device, or an empty text."""
        if errors := self._ask("nvmlDeviceGetTotalEccErrors", handle, UNCORRECTED, VOLATILE):
            return f"{errors} uncorrected memory errors since the driver was loaded"
        if rows := self._ask("nvmlDeviceGetRemappedRows", handle):
            _, _, pending, failed = rows
            if failed:
                return "a memory row could not be remapped; the device needs repair"
            if pending:
                return "a memory row waits to be remapped; the device needs a reset"
        return ""

    def _ask(self, call: str, *arguments):
        """Return what an optional NVML call tells, or None where the device or the driver does not know it."""
        try:
            return getattr(self.api, call)(*arguments)
        except self.api.NVMLError:
            return None


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _process(entry) -> GpuProcess:
    import psutil

    user = command = ""
    with contextlib.suppress(psutil.Error):  # of another user, in another container, or just ended
        process = psutil.Process(entry.pid)
        user, command = process.username(), process.name()
    return GpuProcess(entry.pid, entry.usedGpuMemory, user, command)
