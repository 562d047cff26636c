"""The device that a run uses: chosen, named, and its memory."""

import platform
import re
import resource
import sys

import torch

from elmanctl.errors import UserError
from elmanctl.toolchain import HOST, device_target


def choose(name: str) -> torch.device:
    """Return a device that exists: `cpu`, `cuda`, `cuda:1`, or `auto` for CUDA where there is one.

    Raises:
        UserError: for a name that is no device, or CUDA where there is none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch("cpu|cuda(:[0-9]+)?", name):
        raise UserError(f"Unknown device {name}. Choose cpu, cuda or auto.")
    if name == "cpu":
        return torch.device(name)
    if not torch.cuda.is_available():
        raise UserError("No CUDA device is visible to torch. Train with --device cpu, or see elmanctl doctor.")
    found = torch.device(name)
    if (found.index or 0) >= torch.cuda.device_count():
        raise UserError(f"{name} does not exist: torch sees {torch.cuda.device_count()} CUDA devices, numbered from 0.")
    return found


def target_of(device: torch.device) -> str:
    """Return the build target whose kernels run on a device: `sm_90a` and the like, or `host` on a CPU."""
    return device_target(*torch.cuda.get_device_capability(device)) if device.type == "cuda" else HOST


def name_of(device: torch.device) -> str:
    """Return the name of a GPU, or of the CPU as far as the system tells it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def peak_memory(device: torch.device) -> int:
    """Return the most memory used so far, bytes: allocated on a CUDA device, resident in the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
