"""What a training record says about where its numbers come from: implementation, receipt, device and versions."""

import importlib.metadata
import platform
import resource
import sys

import torch

import elmanctl
from elmanctl.toolchain import HOST, device_target
from elmanctl.variant import Spec, Variant


def target_of(device: torch.device) -> str:
    """Return the build target whose kernels run on a device: `sm_90a` and the like, or `host` on a CPU."""
    return device_target(*torch.cuda.get_device_capability(device)) if device.type == "cuda" else HOST


def device_name(device: torch.device) -> str:
    """Return the name of a GPU, or of the CPU as far as the system tells it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def versions(variant: Variant) -> dict[str, str]:
    """Return versions of Python, torch, CUDA, this tool and the distributions that a baseline requires."""
    found = {"python": platform.python_version(), "torch": str(torch.__version__), "elmanctl": elmanctl.__version__}
    if torch.version.cuda and torch.cuda.is_available():
        found["cuda"] = torch.version.cuda
    if variant.requires:
        owners = importlib.metadata.packages_distributions()
        for module in variant.requires:
            for name in owners.get(module.split(".")[0], ()):
                found[name] = importlib.metadata.version(name)
    return found


def execution(spec: Spec, device: torch.device) -> tuple[str, str]:
    """Return what runs (`kernel`, `reference` or `library`) and the id of the receipt that vouches for it, or an empty text."""
    kind = spec.kind(device.type)
    if kind != "kernel":
        return kind, ""
    from elmanctl.verify import receipt

    found = receipt.find(spec, target_of(device))
    return kind, found.source_hash if found else ""


def peak_memory(device: torch.device) -> int:
    """Return the most memory used so far, bytes: allocated on a CUDA device, resident in the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
