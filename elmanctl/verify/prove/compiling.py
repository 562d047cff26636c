"""Compile a kernel with one edit for the host, in a folder of its own: an edited header shadows the shared one by the order of paths."""

import hashlib
import subprocess
from collections.abc import Mapping
from pathlib import Path

from elmanctl import build, toolchain
from elmanctl.kernel import Kernel
from elmanctl.toolchain import HOST
from elmanctl.verify.prove.edits import Edit, edits

FAMILIES = "families"
SECONDS = 60  # of processor time for one compiler call: a template can be made to recurse without end
WALL = 900


def kernel_code(folder: Path) -> list[Path]:
    """Return the files that hold a kernel's own code: those of the variant's folder, and the family headers it reaches."""
    shared, own = toolchain.csrc_folder().resolve() / "elman" / FAMILIES, folder.resolve()
    reached = [p.resolve() for p in toolchain.sources(folder)]
    return sorted(p for p in reached if p.is_relative_to(own) or p.is_relative_to(shared))


def candidates(folder: Path) -> list[Edit]:
    """Return every edit of a kernel's own code."""
    return [e for path in kernel_code(folder) for e in edits(path)]


def compiled(
    kernel: Kernel, constants: Mapping[str, int], dtype: str, edit: Edit | None, work: Path, flags: tuple[str, ...] = ()
) -> tuple[Path, str] | None:
    """Compile a kernel with an edit (None: as it is).

    Args:
        work: an empty folder for it.
        flags: of the compiler, beside the host's own.
    Returns:
        the library, and a hash of the object code, which is the same for an edit without effect; None where it does not compile.
    """
    folder = toolchain.folder_of(kernel)
    (work / "elman_args.h").write_text(kernel.header())
    source = toolchain.kernel_source(folder)
    # No debug information, and the same name of the file for each mutant: equal code makes equal objects.
    call = [
        p for p in toolchain.command(kernel, constants, dtype, HOST, folder, work) if not p.startswith(("-g", "-W"))
    ]
    if edit is not None and (place := shadow(edit.file, folder, work)):
        lines = edit.file.read_text().splitlines()
        lines[edit.line - 1] = edit.new
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("\n".join(lines) + "\n")
    if not (work / source.name).exists():
        (work / source.name).write_text(source.read_text())
    call[-1] = source.name
    try:
        limited = ["sh", "-c", f'ulimit -t {SECONDS}; exec "$@"', "sh", *call, "-w", *flags, "-o", "kernel.o"]
        ran = subprocess.run(limited, cwd=work, capture_output=True, timeout=WALL)
    except subprocess.TimeoutExpired:
        return None
    if ran.returncode:
        return None
    code = hashlib.sha256((work / "kernel.o").read_bytes()).hexdigest()
    script = build.version_script(work)
    link = [toolchain.compiler(HOST)[0], "-shared", "kernel.o", *build.runtime_objects(HOST), "-o", "kernel.so"]
    linked = subprocess.run([*link, f"-Wl,--version-script={script}"], cwd=work, capture_output=True)
    return (work / "kernel.so", code) if linked.returncode == 0 else None


def shadow(file: Path, folder: Path, work: Path) -> Path:
    """Return where below `work` a copy of a source is found instead of it."""
    for root in (folder.resolve(), toolchain.csrc_folder().resolve()):
        if file.is_relative_to(root):
            return work / file.relative_to(root)
    raise ValueError(f"{file} lies neither in {folder} nor among the shared headers")
