"""What this machine has: Python, torch, compilers, GPUs, packages, data, cache. Each finding that is a problem carries its fix.

Nothing here imports torch, except `torch_build`, which has to.
"""

import functools
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from elmanctl import toolchain
from elmanctl.errors import UserError
from elmanctl.sizes import short_bytes

OK, NOTE, PROBLEM = "ok", "note", "problem"
PYTHON = (3, 11)
LITTLE_DISK = 2 * 2**30  # a full build of every variant and a few checkpoints
ANY_DEVICE = "sm_90a"
VARIABLES = {
    "ELMANCTL_CACHE": "folder of the build cache; default ~/.cache/elmanctl",
    "ELMANCTL_HOME": "receipts of variants whose folder cannot be written; default ~/.local/share/elmanctl",
    "ELMANCTL_LOCKS": "folder of the GPU locks, one for all users of a machine; default below /run/lock or /tmp",
    "ELMANCTL_NVML": "JSON file that stands in for NVML, for tests without a GPU",
    "ELMANCTL_VARIANTS": f"further variants folders, separated by {os.pathsep!r}",
    "ELMANCTL_NO_LOCAL": "1: ignore variants/ folders of the current directory",
    "ELMANCTL_PLUGINS": "entry points of other packages to load, separated by commas; empty: none",
    "ELMANCTL_TRACKERS": "copies of finished trials: tensorboard, wandb (offline), separated by commas",
    "ELMANCTL_DEBUG": "1: show the traceback of an error in the request",
    "CXX": "compiler of the host backend; default g++",
    "NVCC": "compiler of the device backend; default nvcc",
}


@dataclass(frozen=True)
class Finding:
    """One thing looked at: what, `ok`, `note` (something is limited) or `problem` (the tool cannot work), what was found, the fix."""

    what: str
    state: str
    found: str
    fix: str = ""


def findings() -> list[Finding]:
    """Look at everything, the essential first."""
    return [python(), torch_build(), *compilers(), gpus(), *plugins(), data(), cache(), *variables()]


def python() -> Finding:
    text = f"{platform.python_version()} ({sys.executable})"
    if sys.version_info >= PYTHON:
        return Finding("Python", OK, text)
    return Finding("Python", PROBLEM, text, "Install Python 3.11 or newer and make a new environment with it.")


def torch_build() -> Finding:
    """Import torch and say for which CUDA it was built, and whether it can use the GPUs that NVML sees."""
    try:
        import torch
    except Exception as error:  # a damaged installation raises anything; the text is the finding
        fix = "pip install torch, in the version for your driver from pytorch.org"
        return Finding("torch", PROBLEM, f"cannot be imported: {type(error).__name__}: {error}", fix)
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
    text = f"{torch.__version__}, {build}"
    if gpu_targets() and not torch.cuda.is_available():
        return Finding(
            "torch",
            NOTE,
            f"{text}, cannot use the GPU",
            "Install a torch built for CUDA that fits the driver (pytorch.org).",
        )
    return Finding("torch", OK, text)


def compilers() -> list[Finding]:
    """Look for g++ (host backend) and nvcc (GPU). One of them is needed to build any kernel."""
    host = _compiler("g++", toolchain.HOST, "apt install g++ (10 or newer)")
    device = _compiler(
        "nvcc", ANY_DEVICE, "Install the CUDA toolkit and put nvcc on PATH; CPU verification works without."
    )
    if OK not in (host.state, device.state):
        host = Finding(host.what, PROBLEM, host.found, host.fix)
    return [host, device]


def _compiler(name: str, target: str, fix: str) -> Finding:
    try:
        path, version = toolchain.compiler(target)
    except UserError as error:
        text = str(error).split(". ")[0] + "."
        absent = text.startswith(
            "No compiler"
        )  # else its version could not be noted in the cache, which has a row of its own
        return Finding(name, NOTE, text, fix) if absent else Finding(name, OK, text)
    if target == toolchain.HOST and (error := _compiles(path)):
        return Finding(name, NOTE, f"{path} does not compile C++20: {error}", fix)
    return Finding(name, OK, f"{path}: {version}")


def _compiles(path: str) -> str:
    """Compile one line of C++20; return the first line of the error, or an empty text."""
    with tempfile.TemporaryDirectory() as folder:
        call = [path, "-std=c++20", "-x", "c++", "-c", "-", "-o", str(Path(folder) / "probe.o")]
        ran = subprocess.run(call, input="template <class T> concept C = true;\n", capture_output=True, text=True)
    return (ran.stderr.strip().splitlines() or [f"exit {ran.returncode}"])[0] if ran.returncode else ""


def gpus() -> Finding:
    """Name the GPUs as NVML sees them."""
    from elmanctl.gpus import free
    from elmanctl.gpus import gpus as seen

    box = seen()
    if not box:
        return Finding(
            "GPUs",
            NOTE,
            "none that NVML can see",
            "Training and timing need an NVIDIA GPU and its driver; the rest works.",
        )
    names = ", ".join(
        f"{g.index} {g.name} {short_bytes(g.memory_total)}{' (busy)' if free.load(g) else ''}" for g in box
    )
    return Finding("GPUs", OK, f"{names}; targets {', '.join(gpu_targets())}")


@functools.cache
def gpu_targets() -> tuple[str, ...]:
    """Return the build target of each kind of GPU in this machine, without touching CUDA."""
    if not Path("/dev/nvidiactl").exists():  # loading NVML costs more than this look
        return ()
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        found = [toolchain.device_target(*pynvml.nvmlDeviceGetCudaComputeCapability(handle)) for handle in handles]
    finally:
        pynvml.nvmlShutdown()
    return tuple(dict.fromkeys(found))


def plugins() -> list[Finding]:
    """Report variants whose packages are absent, and plugins that do not load."""
    from elmanctl.plugins.registry import registry

    known = registry()
    absent = {v.name: missing for v in known.variants().values() if (missing := v.missing())}
    result = [
        Finding(name, NOTE, f"needs {', '.join(missing)}", known.variants()[name].install)
        for name, missing in absent.items()
    ]
    result += [Finding(p.plugin, NOTE, p.text, f"Correct {p.where}.") for p in known.problems()]
    return result or [Finding("variants", OK, f"all {len(known.variants())} can be used")]


def data() -> Finding:
    """Look for a file to train on in ./data."""
    for path in (Path("data/pile.txt"), Path("data/corpus.txt")):
        if path.is_file():
            return Finding("data", OK, f"{path}, {short_bytes(path.stat().st_size)}")
    return Finding("data", NOTE, "neither data/pile.txt nor data/corpus.txt here", "elmanctl data make")


def cache() -> Finding:
    """Look whether the build cache can be written, and at the free disk."""
    folder = toolchain.cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return Finding(
            "cache",
            PROBLEM,
            f"{folder}: {error.strerror or error}",
            "Set ELMANCTL_CACHE to a folder that can be written.",
        )
    text = f"{folder}, {short_bytes(free)} free"
    return (
        Finding("cache", OK, text)
        if free >= LITTLE_DISK
        else Finding("cache", NOTE, text, "Free some space, or set ELMANCTL_CACHE.")
    )


def variables() -> list[Finding]:
    """Report each environment variable that is set and has an effect."""
    return [
        Finding(name, OK, f"{os.environ[name]!r} ({meaning})")
        for name, meaning in VARIABLES.items()
        if name in os.environ
    ]
