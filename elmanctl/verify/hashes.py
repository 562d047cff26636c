"""What a receipt vouches for, as hashes: a folder's code, the headers and modules that it reaches, flags and the rule. Torch is not imported."""

import functools
import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path

import elmanctl
from elmanctl import takeover
from elmanctl.flavours import is_host
from elmanctl.toolchain import HOST, build_flags, csrc_folder, runtime_sources, sources
from elmanctl.variant import Spec, Variant
from elmanctl.verify import policy

SUFFIXES = (".cu.cc", ".cuh", ".py")
_LAYER = re.compile(r"^\s*(?:from\s+\S*\blayer\s+import|(?:from\s+\S+\s+)?import\s+.*\blayer\b)", re.MULTILINE)


def source_hash(variant: Variant) -> str:
    """Return the SHA-256 over a variant's code: names and contents of its files and of the shared headers it reaches."""
    folder = variant.folder.resolve()
    files = {f"variant/{p.relative_to(folder)}": p for p in code_files(folder)}
    files |= {f"tool/{p.name}": p for p in shared_modules(variant)}
    if variant.has_kernel:
        shared = csrc_folder().resolve()
        for path in map(Path.resolve, sources(folder)):
            if path.is_relative_to(shared):
                files[f"shared/{path.relative_to(shared)}"] = path
    total = hashlib.sha256()
    for name, path in sorted(files.items()):
        content = path.read_bytes()
        total.update(f"{name}\0{len(content)}\0".encode() + content)
    return total.hexdigest()


def parts(spec: Spec, target: str, common: dict[str, str] | None = None) -> dict[str, str]:
    """Return the hash of each thing that a receipt of a configuration for a target vouches for; `common` are those of any target, if known."""
    variant, texts = spec.variant, {"policy": policy.digest()}
    if paths := second_mode(spec):
        texts["stepwise"] = digest(paths)
    if variant.has_kernel:
        texts["flags"] = digest((), " ".join(build_flags(target)))
        if is_host(target):
            texts["runtime"] = digest(sorted(runtime_sources(target), key=_order))
    return dict(sorted(((common or common_parts(variant)) | texts).items()))


def second_mode(spec: Spec) -> list[Path]:
    """Return the tool's own file that runs a recurrence in the second mode: that of a configuration which asks for this, else none."""
    return [_tool() / "stepwise.py"] if takeover.by_products(spec) else []


def kernel_scope(spec: Spec, target: str = HOST) -> str:
    """Return the hash of what a kernel's checks on a target are of, and what `--prove` plants mistakes in: all that a receipt is bound to but the layer.

    layer.py and what only it reaches are left out, unless another file of the folder imports it.
    """
    folder, shared = spec.variant.folder.resolve(), csrc_folder().resolve()
    files = code_files(folder)
    others = [path for path in files if path != folder / "layer.py"]
    if not any(_LAYER.search(path.read_text()) for path in others if path.suffix == ".py"):
        files = others
    headers = (p for p in sources(folder) if p.is_relative_to(shared))
    runtime = runtime_sources(target) if is_host(target) else ()
    paths = {*files, *_reached_modules(files), *headers, *runtime, *second_mode(spec)}
    return digest(sorted(paths, key=_order), " ".join([*build_flags(target), policy.digest()]))


def _order(path: Path) -> tuple[str, ...]:
    """Sort paths as they sort themselves, at a tenth of the price."""
    return path.parts


def common_parts(variant: Variant) -> dict[str, str]:
    """Return the hashes of what a receipt for any target vouches for."""
    folder, shared = variant.folder.resolve(), csrc_folder().resolve()
    files = code_files(folder)
    groups: dict[str, list[Path]] = {"kernel": [], "reference": [], "layer": [], "shared": _reached_modules(files)}
    for path in files:
        name = {"reference.py": "reference"}.get(path.name, "layer" if path.suffix == ".py" else "kernel")
        groups[name].append(path)
    if variant.has_kernel:
        groups["headers"] = [p for p in sources(folder) if p.is_relative_to(shared)]
    return {name: digest(sorted(paths, key=_order)) for name, paths in groups.items() if paths}


def digest(paths: Iterable[Path], text: str = "") -> str:
    """Return a short hash over names and contents of files, and a text."""
    return _digest(tuple((path, path.stat().st_mtime_ns) for path in paths), text)


@functools.lru_cache(256)
def _digest(files: tuple[tuple[Path, int], ...], text: str) -> str:
    """Variants of one family reach the same headers."""
    total = hashlib.sha256(text.encode())
    for path, _ in files:
        content = path.read_bytes()
        total.update(f"{path.name}\0{len(content)}\0".encode() + content)
    return total.hexdigest()[:32]


def family(variant: Variant) -> str:
    """Return the names of the family headers that a kernel reaches, its own name where it reaches none."""
    families = csrc_folder().resolve() / "elman" / "families"
    return ", ".join(sorted(p.name for p in sources(variant.folder) if p.resolve().parent == families)) or variant.name


def shared_modules(variant: Variant) -> list[Path]:
    """Return the tool's own files that a variant's folder is made of, families/ and those named below, as far as it reaches them."""
    return _reached_modules(code_files(variant.folder.resolve()))


def _reached_modules(files: list[Path]) -> list[Path]:
    known = _building_blocks()
    found: set[Path] = set()
    waiting = [path for path in files if path.suffix == ".py"]
    while waiting:
        path = waiting.pop()
        new = {known[word] for word in _imported(path, path.stat().st_mtime_ns) if word in known} - found
        found |= new
        waiting += new
    return sorted(found)


def _tool() -> Path:
    return Path(elmanctl.__file__).resolve().parent


@functools.cache
def _building_blocks() -> dict[str, Path]:
    tool = _tool()
    alone = (tool / f"{name}.py" for name in ("conv", "cudnn", "head_norm", "shells", "spectral"))
    return {path.stem: path for path in (*alone, *tool.glob("families/[a-z]*.py"))}


@functools.lru_cache(1024)
def _imported(path: Path, _changed: int) -> set[str]:
    """Return the words of a file's imports from the tool."""
    lines = re.findall(r"^(?:from|import) elmanctl\b.*$", path.read_text(), re.MULTILINE)
    return {word for line in lines for word in re.findall(r"\w+", line)}


def code_files(folder: Path) -> list[Path]:
    """Return the files of a folder that decide what it computes; tests do not."""
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != "__pycache__"]
        found += [Path(place, n) for n in names if n.endswith(SUFFIXES) and not n.startswith("test_")]
    return sorted(found, key=_order)
