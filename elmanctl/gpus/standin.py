"""A stand-in for the pynvml module, told by a JSON file, so that a box of eight GPUs with busy neighbours can be had without one.

ELMANCTL_NVML names the file: a list of devices, each with any of the keys of `DEVICE`. It is read anew at every nvmlInit, also by
child processes, so that a test can let neighbours come and go.
"""

import json
from pathlib import Path
from types import SimpleNamespace

# Memory in bytes, utilisation in per cent, [pid, bytes] for each process; clocks in MHz, power in milliwatts.
DEVICE = {
    "uuid": "",
    "name": "Stand-in",
    "memory_total": 140 * 2**30,
    "memory_used": 2**29,
    "utilisation": 0,
    "processes": [],
    "capability": [9, 0],
    "ecc": 0,
    "rows": [0, 0, 0, 0],
    "lost": False,
    "mig": False,
    "clock": 1980,
    "clock_max": 1980,
    "power": 500_000,
    "power_limit": 700_000,
    "temperature": 55,
    "throttle": 0,
}


class NVMLError(Exception):
    """What pynvml raises."""


class Standin:
    """As much of pynvml as `Nvml` uses. `open` counts sessions that were not shut down."""

    NVMLError = NVMLError

    def __init__(self, file: str | Path):
        self.file, self.open, self.devices = Path(file), 0, []

    def nvmlInit(self) -> None:
        if not self.file.exists():
            raise NVMLError("driver not loaded")
        self.devices = [
            SimpleNamespace(**(DEVICE | {"uuid": f"GPU-{index}"} | given))
            for index, given in enumerate(json.loads(self.file.read_text()))
        ]
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        return len(self.devices)

    def nvmlDeviceGetHandleByIndex(self, index: int):
        return self.devices[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str):
        found = next((device for device in self.devices if device.uuid == uuid), None)
        if found is None or found.lost:
            raise NVMLError("GPU is lost" if found else "not found")
        return found

    def nvmlDeviceGetMemoryInfo(self, device):
        if device.lost:
            raise NVMLError("GPU is lost")
        return SimpleNamespace(total=device.memory_total, used=device.memory_used)

    def nvmlDeviceGetUtilizationRates(self, device):
        if device.mig:
            raise NVMLError("not supported")
        return SimpleNamespace(gpu=device.utilisation)

    def nvmlDeviceGetComputeRunningProcesses(self, device):
        return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in device.processes]

    def nvmlDeviceGetMigMode(self, device):
        return [int(device.mig), int(device.mig)]

    def __getattr__(self, call: str):
        """Answer the calls that give one number or text of a device."""
        if call not in _PLAIN:
            raise AttributeError(call)
        return lambda device, *arguments: getattr(device, _PLAIN[call])


_PLAIN = {
    "nvmlDeviceGetUUID": "uuid",
    "nvmlDeviceGetName": "name",
    "nvmlDeviceGetCudaComputeCapability": "capability",
    "nvmlDeviceGetTotalEccErrors": "ecc",
    "nvmlDeviceGetRemappedRows": "rows",
    "nvmlDeviceGetClockInfo": "clock",
    "nvmlDeviceGetMaxClockInfo": "clock_max",
    "nvmlDeviceGetPowerUsage": "power",
    "nvmlDeviceGetEnforcedPowerLimit": "power_limit",
    "nvmlDeviceGetTemperature": "temperature",
    "nvmlDeviceGetCurrentClocksThrottleReasons": "throttle",
}
