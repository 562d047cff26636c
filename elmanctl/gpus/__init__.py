"""The GPUs of this machine: what NVML sees (nvml), what `--gpus` names (choice), which are free and why not (free), who holds
which across users (locks), and a stand-in for NVML that tests choose (standin).

* Numbers are NVML's, in PCI order; a child process is given UUIDs, because CUDA's own order may differ.
* Processes of others are only looked at.
"""

from elmanctl.gpus.nvml import Gpu, GpuProcess, Nvml

__all__ = ["Gpu", "GpuProcess", "Nvml", "gpus"]


def gpus() -> list[Gpu]:
    """Return the GPUs of this machine in PCI order."""
    return Nvml().gpus()
