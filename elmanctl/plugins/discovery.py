"""Where variants come from: `variants/` folders loaded by file location, and the entry points of installed packages.

* A folder `variants/x` is loaded as the package `elmanctl_variants.x` without touching `sys.path`, so a new folder needs no install.
* The order is the precedence: the current directory first, then its parents, ELMANCTL_VARIANTS, installed packages.
"""

import functools
import importlib.metadata
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import elmanctl
from elmanctl.errors import UserError

NAMESPACE = "elmanctl_variants"
GROUP = "elmanctl"
ROOT_MARKERS = ("pyproject.toml", ".git")


@dataclass(frozen=True)
class Source:
    """Where a variant came from: `installed` or `local`, its place, and the place of the one that it hides, if any."""

    kind: str
    where: str
    hides: str = ""

    def __str__(self) -> str:
        return f"{self.kind}, hides {self.hides}" if self.hides else self.kind


@dataclass(frozen=True)
class Found:
    """A plugin that can be loaded: its short name, where it is, and the call that imports it and returns the plugin object."""

    name: str
    source: Source
    load: Callable[[], object]


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


def plan() -> list[Found]:
    """Return every plugin to load, in order of precedence. Of several folders of one name the first counts, and hides the others."""
    shipped = shipped_folder()
    entries = entry_points()
    installed = {path.name: path for e in entries if (path := installed_path(e))}
    folders: dict[str, list[Path]] = {}
    for place in dict.fromkeys([*local_folders(), *([shipped] if shipped else [])]):
        for init in sorted(place.glob("*/__init__.py")):
            if init.parent.name[0] not in "._":
                folders.setdefault(init.parent.name, []).append(init.parent)
    result = []
    for name, paths in folders.items():
        first = paths[0]
        others = [p for p in (*paths[1:], installed.get(name)) if p and not same(p, first)]
        own = any(same(first, p) for p in (installed.get(name), shipped and shipped / name) if p)
        source = Source("installed" if own else "local", str(first), str(others[0]) if others else "")
        result.append(Found(name, source, functools.partial(load_variant, first)))
    for entry in entries:
        folder = entry.module.removeprefix(NAMESPACE + ".")
        if folder != entry.module and folder in folders:
            continue
        package = entry.dist.name if entry.dist else "unknown"
        path = installed_path(entry)
        # A folder is loaded by its place, since a package of that name may be in memory from a place that no longer applies.
        load = functools.partial(load_variant, path) if path else entry.load
        name = entry.name if entry.name not in [f.name for f in result] else f"{entry.name} ({package})"
        where = str(path) if path else f"{entry.value} of package {package}"
        result.append(Found(name, Source("installed", where), load))
    if text := os.environ.get("ELMANCTL_TRACKERS"):
        result.append(
            Found("trackers", Source("installed", "ELMANCTL_TRACKERS"), functools.partial(load_trackers, text))
        )
    return result


def load_trackers(text: str) -> object:
    """Return the shipped plugin that copies finished trials to the trackers named."""
    from elmanctl.plugins.trackers import Trackers

    return Trackers(text)


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


def load_variant(path: Path) -> object:
    """Load a folder and return its `variant`."""
    module = load_folder(path)
    if not hasattr(module, "variant"):
        raise AttributeError("__init__.py defines no `variant = Variant(...)`")
    return module.variant


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
    try:
        return a.samefile(b)
    except FileNotFoundError:
        return False


def describe(error: BaseException, folder: Path | None = None) -> str:
    """Return an error in one line: type, text, and the last line of `folder` (by default of any file) that it came through."""
    text = f"{type(error).__name__}: {error}".strip().rstrip(":")
    if isinstance(error, SyntaxError):  # its text has the place
        return text
    frames = traceback.extract_tb(error.__traceback__)
    inside = [f for f in frames if (Path(f.filename).is_relative_to(folder) if folder else f.filename[0] != "<")]
    return f"{text} ({inside[-1].filename}, line {inside[-1].lineno})" if inside else text
