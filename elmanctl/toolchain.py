"""Where the sources are, which compiler takes them, and with which flags.

* Targets: `host` (g++, every CUDA thread a fiber) and its sanitized flavours, and `sm_90a` and the like (nvcc with the language forced to CUDA, since
  `.cu.cc` is C++ to every tool that decides by the last suffix).
* This module does not import torch.
"""

import errno
import functools
import importlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from elmanctl.errors import UserError
from elmanctl.files import write_json
from elmanctl.flavours import FLAVOURS, HOST, is_host
from elmanctl.kernel import Kernel

COMMON = ("-std=c++20", "-fno-strict-aliasing")
HOST_FLAGS = ("-O1", "-g1", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-unknown-pragmas", *COMMON)
RUNTIME_FLAGS = (*HOST_FLAGS, "-O2")  # compiled once, and more than half of a kernel's time on the host is spent there
DEVICE_FLAGS = (
    "-O3",
    "-std=c++20",
    "-lineinfo",
    "-Xptxas=-v",
    "-Xcompiler=-fPIC,-fvisibility=hidden,-fno-strict-aliasing",
)
INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', re.MULTILINE)
ERROR_LINE = re.compile(
    r"^(?P<file>[^\s:(]+)(?::(?P<line>\d+)(?::\d+)?|\((?P<cuda_line>\d+)\))?: (?:fatal )?error:? (?P<text>.*)$",
    re.MULTILINE,
)


def build_flags(target: str) -> tuple[str, ...]:
    """Return every flag that a build for a target is made with, of its runtime too."""
    if not is_host(target):
        return DEVICE_FLAGS
    return HOST_FLAGS + RUNTIME_FLAGS + FLAVOURS[target].kernel + FLAVOURS[target].runtime


def cache_folder() -> Path:
    """Return where artefacts live: ELMANCTL_CACHE, else ~/.cache/elmanctl."""
    return Path(os.environ.get("ELMANCTL_CACHE") or Path.home() / ".cache" / "elmanctl")


@functools.cache
def csrc_folder() -> Path:
    """Return the folder that holds `elman/`: beside the package in a checkout, else the installed elmanctl_csrc."""
    checkout = Path(__file__).resolve().parent.parent / "csrc_common"
    if checkout.is_dir():
        return checkout
    installed = importlib.util.find_spec("elmanctl_csrc")
    return Path(next(iter(installed.submodule_search_locations)))


def kernel_source(folder: Path) -> Path:
    """Return the one `.cu.cc` file of a variant's folder."""
    found = sorted(folder.glob("*.cu.cc"))
    if len(found) != 1:
        names = ", ".join(f.name for f in found) or "none"
        raise UserError(f"{folder} must hold exactly one .cu.cc file (one kernel per variant); it holds {names}.")
    return found[0]


def sources(folder: Path) -> list[Path]:
    """Return the kernel and every header it reaches. A copy below the variant's folder shadows the shared header."""
    return reached([kernel_source(folder)], (folder, csrc_folder()))


def runtime_sources(target: str = HOST) -> list[Path]:
    """Return the sources of a host build's runtime and every header they reach."""
    return reached(host_sources(target), (csrc_folder(),))


def reached(start: list[Path], roots: tuple[Path, ...]) -> list[Path]:
    """Follow the includes of some files through a compiler's search path, in the order reached.

    On texts: `list` follows some thousand includes, and a Path costs ten times as much.
    """
    found, pending = {}, [str(path) for path in start]
    # A root that lacks the first part of a name has none below it: most variants shadow no header.
    bases = [(str(root), set(os.listdir(root))) for root in roots]
    while pending:
        path = pending.pop()
        if path in found:
            continue
        found[path] = Path(path)
        own = os.path.dirname(path)
        for name in _includes(path, os.stat(path).st_mtime_ns):
            first = name.partition("/")[0]
            for base, entries in ((own, _entries(own, os.stat(own).st_mtime_ns)), *bases):
                if first in entries and os.path.isfile(candidate := os.path.join(base, name)):
                    pending.append(_real(candidate))
                    break
    return list(found.values())


@functools.cache
def _entries(folder: str, _changed: int) -> frozenset[str]:
    return frozenset(os.listdir(folder))


_real = functools.cache(os.path.realpath)


@functools.cache
def _includes(path: str, _changed: int) -> list[str]:
    """Return what a file includes; variants share most of their headers."""
    return INCLUDE.findall(Path(path).read_text())


def host_sources(target: str = HOST) -> list[Path]:
    """Return the runtime files that are compiled once per flavour and linked into every host build of it."""
    folder = csrc_folder() / "elman" / "host"
    return sorted(folder.glob("runtime*.cc")) + [folder / part for part in FLAVOURS[target].parts]


def preload(target: str) -> list[str]:
    """Return the libraries that LD_PRELOAD must name for a process that loads a host build.

    Raises:
        UserError: when the compiler has no such library.
    """
    path, found = compiler(target)[0], []
    for name in FLAVOURS[target].preload:
        told = subprocess.run([path, f"-print-file-name=lib{name}.so"], capture_output=True, text=True, check=True)
        found.append(told.stdout.strip())
        if not os.path.isabs(found[-1]):  # the compiler repeats the name of what it does not find
            raise UserError(
                f"{path} has no lib{name}, which the build {target} runs under. Install it with the compiler "
                f"(Debian: apt install gcc; Fedora: dnf install lib{name}), or leave out --sanitize."
            )
    return found


@functools.cache
def compiler(target: str) -> tuple[str, str]:
    """Return (path, version line) of the compiler for a target. The version is remembered beside the cache by path, size and time.

    Raises:
        UserError: when there is none.
    """
    name = os.environ.get("CXX", "g++") if is_host(target) else os.environ.get("NVCC", "nvcc")
    path = shutil.which(name) or (shutil.which("/usr/local/cuda/bin/nvcc") if not is_host(target) else None)
    if path is None:
        advice = (
            "Install g++ (Debian: apt install g++)"
            if is_host(target)
            else "Install the CUDA toolkit, or put nvcc on PATH"
        )
        raise UserError(
            f"No compiler for target {target}: {name} is not on PATH. {advice}; elmanctl doctor shows what is found."
        )
    stat = os.stat(os.path.realpath(path))
    identity = f"{os.path.realpath(path)}|{stat.st_size}|{stat.st_mtime_ns}"
    memory = cache_folder() / "compilers.json"
    known = json.loads(memory.read_text()) if memory.exists() else {}
    if identity not in known:
        text = (
            subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout.strip().splitlines()
        )
        known[identity] = text[0] if is_host(target) else text[-1]
        write_json(memory, known)
    return path, known[identity]


def device_target(major: int, minor: int) -> str:
    """Return the target of a compute capability; from 9.0 on with the architecture's own instructions (`sm_90a`)."""
    return f"sm_{major}{minor}" + ("a" if major >= 9 else "")


def folder_of(kernel: Kernel) -> Path:
    """Return the variant's folder that declares a kernel."""
    return Path(importlib.import_module(kernel.package).__file__).resolve().parent


def command(
    kernel: Kernel, constants: Mapping[str, int], dtype: str, target: str, folder: Path, work: Path
) -> list[str]:
    """Return the compiler call, without its output."""
    path, _ = compiler(target)
    flags = (
        [*HOST_FLAGS, *FLAVOURS[target].kernel, "-x", "c++"]
        if is_host(target)
        else [*DEVICE_FLAGS, f"-gencode=arch=compute_{target[3:]},code={target}", "-DELMAN_DEVICE", "-x", "cu"]
    )
    defines = [
        f"-DELMAN_DTYPE=elman::{dtype}",
        *(f"-DELMAN_{name}={int(value)}" for name, value in sorted(constants.items())),
    ]
    return [path, *flags, *defines, f"-I{work}", f"-I{folder}", f"-I{csrc_folder()}", "-c", str(kernel_source(folder))]


def execute(call: list[str]) -> str:
    """Run a compiler and return what it printed; raise its first error as a UserError."""
    ran = subprocess.run(call, capture_output=True, text=True)
    text = ran.stdout + ran.stderr
    if ran.returncode:
        if os.strerror(errno.ENOSPC) in text:
            raise UserError(
                f"The disk is full, so the kernel could not be compiled. Free some space in {cache_folder()} (ELMANCTL_CACHE) "
                f"or {tempfile.gettempdir()} (TMPDIR) and try again."
            )
        first = ERROR_LINE.search(text)
        where = (
            f"{first['file']}:{first['line'] or first['cuda_line'] or '?'}: {first['text']}"
            if first
            else text.strip()[-800:]
        )
        raise UserError(f"The kernel does not compile. {where}\nThe whole command: {' '.join(call)}")
    return text
