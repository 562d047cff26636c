"""Where variants come from: `variants/` folders loaded by file location, and the entry points of installed packages.

* A folder `variants/x` is loaded as the package `elmanctl_variants.x` without touching `sys.path`, so a new folder needs no install.
* The order is the precedence: the current directory first, then its parents, ELMANCTL_VARIANTS, installed packages.
"""

import importlib.metadata
import importlib.util
import os
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import elmanctl
from elmanctl.errors import UserError

NAMESPACE = "elmanctl_variants"
GROUP = "elmanctl"
ROOT_MARKERS = ("pyproject.toml", ".git")


@dataclass(frozen=True)
class Candidate:
    """A folder that may hold a variant: its path, and whether it ships with a tool that runs uninstalled."""

    path: Path
    shipped: bool


def variants_folders(start: Path) -> list[Path]:
    """Return the `variants/` folders that apply in `start`, nearest first.

    The search climbs to the first directory that holds pyproject.toml or .git. Outside a project only `start` itself counts, since
    these folders run code and a parent such as /tmp is open to everyone.
    """
    chain = [start, *start.parents]
    root = next((i for i, d in enumerate(chain) if any((d / marker).exists() for marker in ROOT_MARKERS)), 0)
    return [d / "variants" for d in chain[: root + 1] if (d / "variants").is_dir()]


def local_folders() -> list[Path]:
    """Return every `variants/` folder of the current directory and of ELMANCTL_VARIANTS, in order of precedence.

    Raises:
        UserError: when ELMANCTL_VARIANTS names something that is not a folder.
    """
    found = []
    if os.environ.get("ELMANCTL_NO_LOCAL", "") in ("", "0"):
        try:
            found += variants_folders(Path.cwd())
        except FileNotFoundError:
            raise UserError(
                "The current directory does not exist any more. Change to one that does, for example: cd ~"
            ) from None
    for text in filter(None, os.environ.get("ELMANCTL_VARIANTS", "").split(os.pathsep)):
        if not Path(text).is_dir():
            raise UserError(f"ELMANCTL_VARIANTS names {text}, which is not a folder. Correct it or unset it.")
        found.append(Path(text).absolute())
    return found


def shipped_folder() -> Path | None:
    """Return the `variants/` folder beside the tool where the tool runs from a checkout that is not installed."""
    beside = Path(elmanctl.__file__).resolve().parent.parent / "variants"
    return beside if not installed_folders() and beside.is_dir() else None


def installed_folders() -> list[Path]:
    """Return where the installed package `elmanctl_variants` lies; empty when it is not installed."""
    parent = sys.modules.get(NAMESPACE)
    if parent is None:
        found = importlib.util.find_spec(NAMESPACE)
        return [Path(p) for p in (found.submodule_search_locations or ())] if found else []
    return [Path(p) for p in parent.__path__]


def candidates() -> list[Candidate]:
    """Return the folders to load by file location, in order of precedence."""
    shipped = shipped_folder()
    result = []
    for place in dict.fromkeys([*local_folders(), *([shipped] if shipped else [])]):
        own = shipped is not None and same(place, shipped)
        folders = [init.parent for init in sorted(place.glob("*/__init__.py"))]
        result += [Candidate(folder, own) for folder in folders if folder.name[0] not in "._"]
    return result


def entry_points() -> list[importlib.metadata.EntryPoint]:
    """Return the entry points to load: the tool's own, and others unless ELMANCTL_PLUGINS lists which (empty: none)."""
    listed = os.environ.get("ELMANCTL_PLUGINS")
    wanted = None if listed is None else {name.strip() for name in listed.split(",")}
    found = importlib.metadata.entry_points(group=GROUP)
    return [e for e in found if wanted is None or e.name in wanted or (e.dist and e.dist.name == "elmanctl")]


def installed_path(entry: importlib.metadata.EntryPoint) -> Path | None:
    """Return the folder of an entry point that names a folder of `elmanctl_variants`, else None."""
    parent, _, folder = entry.module.partition(".")
    if parent != NAMESPACE or not folder or "." in folder:
        return None
    return next((p / folder for p in installed_folders() if (p / folder / "__init__.py").exists()), None)


def load_folder(path: Path) -> ModuleType:
    """Import `path` as `elmanctl_variants.<folder>`, replacing a package of that name from another folder."""
    name = f"{NAMESPACE}.{path.name}"
    init = path / "__init__.py"
    loaded = sys.modules.get(name)
    if loaded is not None and getattr(loaded, "__file__", None) and same(Path(loaded.__file__), init):
        return loaded
    forget(name)
    spec = importlib.util.spec_from_file_location(name, init, submodule_search_locations=[str(path)])
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        forget(name)
        raise
    setattr(_namespace(), path.name, module)
    return module


def forget(name: str) -> None:
    """Drop a package and its submodules from the loaded modules."""
    for key in [key for key in sys.modules if key == name or key.startswith(name + ".")]:
        del sys.modules[key]


def _namespace() -> ModuleType:
    """Return the parent package, made on the spot where nothing installed provides it."""
    try:
        return importlib.import_module(NAMESPACE)
    except ModuleNotFoundError:
        parent = ModuleType(NAMESPACE)
        parent.__path__ = []
        return sys.modules.setdefault(NAMESPACE, parent)


def same(a: Path, b: Path) -> bool:
    """Return whether two paths are one file or folder."""
    return a.resolve() == b.resolve()


def describe(error: BaseException, folder: Path | None = None) -> str:
    """Return an error in one line: type, text, and the last line of `folder` (by default of any file) that it came through."""
    text = f"{type(error).__name__}: {error}".strip().rstrip(":")
    if isinstance(error, SyntaxError):  # its text has the place
        return text
    frames = traceback.extract_tb(error.__traceback__)
    inside = [f for f in frames if folder is None or Path(f.filename).is_relative_to(folder)]
    return f"{text} ({inside[-1].filename}, line {inside[-1].lineno})" if inside else text
