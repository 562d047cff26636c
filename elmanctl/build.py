"""Compile one kernel for one target, dtype and set of constants, or find it in the cache; load it through its C ABI.

* The key is a hash over the contents of all sources and headers reached, flags, constants, compiler version and target. An
  artefact folder is written aside and renamed; an OS lock, freed by the kernel when its holder dies, keeps two builds apart.
* This module does not import torch: a kernel builds where torch is absent.
"""

import contextlib
import ctypes
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from elmanctl import resources
from elmanctl.errors import UserError
from elmanctl.files import write_json
from elmanctl.flavours import FLAVOURS, family, is_host
from elmanctl.kernel import Kernel
from elmanctl.tensors import DTYPES
from elmanctl.toolchain import (
    RUNTIME_FLAGS,
    build_flags,
    cache_folder,
    command,
    compiler,
    csrc_folder,
    execute,
    folder_of,
    host_sources,
    preload,
    runtime_sources,
    sources,
)

LOCK_SECONDS = 600


def check_request(kernel: Kernel, constants: Mapping[str, int], dtype: str, target: str) -> None:
    """Refuse a dtype or constants that the kernel does not declare."""
    allowed = [d.split("@")[0] for d in kernel.dtypes if "@" not in d or d.split("@")[1] == family(target)]
    if dtype not in allowed:
        raise UserError(f"{kernel.package} has no {dtype} build for {target}. It has: {', '.join(allowed)}.")
    if wrong := set(constants) ^ set(kernel.compiled):
        names = ", ".join(sorted(wrong))
        raise UserError(
            f"{kernel.package}: constants {names} given or missing; it takes {', '.join(kernel.compiled) or 'none'}."
        )


def digest(paths: list[Path], *more: str) -> str:
    """Return a hash over the names and contents of files and over further texts."""
    total = hashlib.sha256()
    for path in paths:
        content = path.read_bytes()
        total.update(f"{path.name}\0{len(content)}\0".encode())
        total.update(content)
    for text in more:
        total.update(text.encode() + b"\0")
    return total.hexdigest()[:32]


def key(kernel: Kernel, constants: Mapping[str, int], dtype: str, target: str) -> str:
    """Return the content hash that names the artefact."""
    folder = folder_of(kernel)
    files = sources(folder) + (runtime_sources(target) if is_host(target) else [])
    chosen = json.dumps(dict(constants), sort_keys=True)
    return digest(files, kernel.header(), dtype, target, *build_flags(target), compiler(target)[1], chosen)


def build(kernel: Kernel, constants: Mapping[str, int], dtype: str, target: str) -> Path:
    """Return the artefact folder (`kernel.so`, `elman_args.h`, `report.json`), compiling if the cache has none.

    Args:
        kernel: the declaration; its package's folder holds the source.
        constants: value of every compile-time constant, those of a tiling included (`Kernel.complete`).
        dtype: `float32`, `bfloat16` or `float64`.
        target: `host`, a sanitized flavour of it (flavours.py), or an architecture such as `sm_90a`.
    Raises:
        UserError: for a request the kernel does not support, a missing compiler, or the first compiler error with its line.
    """
    assert dtype in DTYPES, dtype
    check_request(kernel, constants, dtype, target)
    name = key(kernel, constants, dtype, target)
    done = cache_folder() / "kernels" / name
    if (done / "kernel.so").exists():
        return done
    with locked(name):
        if not (done / "kernel.so").exists():
            compile_into(done, kernel, constants, dtype, target)
            resources.remember(cache_folder(), kernel.package, constants, dtype, target, name)
    return done


@contextlib.contextmanager
def locked(name: str):
    """Hold the OS lock of one artefact; the holder's pid is in the file for the message."""
    import filelock  # brings asyncio along, which `list` can do without

    path = cache_folder() / "locks" / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(path, timeout=LOCK_SECONDS):
            path.with_suffix(".pid").write_text(str(os.getpid()))
            yield
            path.with_suffix(".pid").unlink(missing_ok=True)
    except filelock.Timeout:
        holder = path.with_suffix(".pid")
        pid = holder.read_text() if holder.exists() else "unknown"
        raise UserError(
            f"Another process (pid {pid}) has been building this kernel for {LOCK_SECONDS} s. Wait for it, or end it and try again."
        ) from None


def compile_into(done: Path, kernel: Kernel, constants: Mapping[str, int], dtype: str, target: str) -> None:
    """Compile and link in a folder aside, then rename it to `done`."""
    folder = folder_of(kernel)
    done.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=done.parent, prefix=".building-"))
    try:
        (work / "elman_args.h").write_text(kernel.header())
        call = command(kernel, constants, dtype, target, folder, work)
        log = execute([*call, "-o", str(work / "kernel.o")])
        link = [
            compiler(target)[0],
            "-shared",
            str(work / "kernel.o"),
            *runtime_objects(target),
            *(FLAVOURS[target].runtime if is_host(target) else ("-cudart=static",)),
            "-o",
            str(work / "kernel.so"),
        ]
        execute([*link, f"-Wl,--version-script={version_script(work)}"] if is_host(target) else link)
        write_json(work / "report.json", resources.read_report(log, target))
        (work / "kernel.o").unlink()
        with contextlib.suppress(
            OSError
        ):  # another machine sharing the cache may have been first; its artefact is equal
            os.rename(work, done)
        if target == family(target):  # editors follow the builds that people run
            note_compile_command(folder, [part.replace(str(work), str(done)) for part in call])
    finally:
        shutil.rmtree(work, ignore_errors=True)


def version_script(work: Path) -> Path:
    """Write the linker script that exports our names only, so that two libraries never merge their C++ symbols."""
    path = work / "exports.map"
    path.write_text("{ global: elman_*; local: *; };\n")
    return path


def runtime_objects(target: str) -> list[str]:
    """Return the objects of a host build's runtime, compiled once per flavour and compiler; empty for a device."""
    if not is_host(target):
        return []
    path, version = compiler(target)
    flags = (*RUNTIME_FLAGS, *FLAVOURS[target].runtime)
    name = "runtime-" + digest(runtime_sources(target), *flags, version)
    done = cache_folder() / "kernels" / name
    if not done.exists():
        with locked(name):
            if not done.exists():
                done.parent.mkdir(parents=True, exist_ok=True)
                work = Path(tempfile.mkdtemp(dir=done.parent, prefix=".building-"))
                try:
                    for source in host_sources(target):
                        call = [path, *flags, f"-I{csrc_folder()}", "-c", str(source)]
                        execute([*call, "-o", str(work / f"{source.stem}.o")])
                    os.rename(work, done)
                finally:
                    shutil.rmtree(work, ignore_errors=True)
    return [str(o) for o in sorted(done.glob("*.o"))]


def note_compile_command(folder: Path, call: list[str]) -> None:
    """Record the call in the project's compile_commands.json, so that editors find the generated header."""
    root = next((p for p in folder.parents if (p / "pyproject.toml").exists() or (p / ".git").exists()), None)
    if root is None or not os.access(root, os.W_OK):
        return
    path = root / "compile_commands.json"
    entry = {"directory": str(root), "file": call[-1], "arguments": call}
    with locked("compile_commands"):
        try:
            entries = json.loads(path.read_text()) if path.exists() else []
        except ValueError:
            entries = []
        write_json(path, [e for e in entries if e.get("file") != call[-1]] + [entry])


class Library:
    """A loaded kernel: two C functions, each taking a packed argument struct and returning an error text or nothing."""

    def __init__(self, path: Path):
        self.path = path
        self.handle = ctypes.CDLL(str(path))
        for name in ("elman_forward", "elman_backward"):
            function = getattr(self.handle, name)
            function.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t]
            function.restype = ctypes.c_int

    def call(self, name: str, arguments: bytes) -> None:
        """Call `elman_forward` or `elman_backward`; raise RuntimeError with the kernel's own message if it fails."""
        message = ctypes.create_string_buffer(2048)
        if getattr(self.handle, name)(arguments, message, len(message)):
            raise RuntimeError(message.value.decode(errors="replace"))

    def order(self, code: int, seed: int = 0) -> None:
        """Choose the order in which a host build runs threads and blocks: 0 forward, 1 reverse, 2 random from `seed`."""
        self.handle.elman_host_order(ctypes.c_int(code), ctypes.c_uint64(seed))

    def watch(self, tensors: Mapping[str, tuple[int, int]]) -> None:
        """Let the race check watch these tensors, name -> (address, bytes), and no others."""
        self.handle.elman_race_unwatch()
        for name, (address, size) in tensors.items():
            self.handle.elman_race_watch(ctypes.c_void_p(address), ctypes.c_size_t(size), name.encode())


_loaded: dict[str, Library] = {}
_substituted: dict[tuple, Library] = {}


def load(kernel: Kernel, constants: Mapping[str, int], dtype: str, target: str) -> Library:
    """Build if needed and load; see build for arguments and errors.

    Raises:
        RuntimeError: for a build under AddressSanitizer in a process that was not started with its library, which would end it.
    """
    if mutant := _substituted and _substituted.get(_request(kernel, constants, dtype, target)):
        return mutant
    folder = build(kernel, constants, dtype, target)
    if folder.name not in _loaded:
        if is_host(target) and FLAVOURS[target].preload and not hasattr(ctypes.CDLL(None), "__asan_init"):
            raise RuntimeError(f"a build for {target} can be loaded only with LD_PRELOAD={':'.join(preload(target))}")
        _loaded[folder.name] = Library(folder / "kernel.so")
    return _loaded[folder.name]


def substitute(kernel: Kernel, constants: Mapping[str, int], dtype: str, target: str, path: Path) -> None:
    """Let this process run the library at `path` in place of the kernel's own build: a mutant, in a child process."""
    _substituted[_request(kernel, constants, dtype, target)] = Library(path)


def _request(kernel: Kernel, constants: Mapping[str, int], dtype: str, target: str) -> tuple:
    return (kernel.package, tuple(sorted(constants.items())), dtype, target)
