"""The sources that a run was queued with, kept in `runs/.snapshots/<hash>`, from which its trials run whatever is edited meanwhile.

A snapshot holds the tool, the shared headers, the folders of the variants that the rows name, the suite file, and the versions of
every installed package. Its name is the hash of its content, so that equal sources are kept once.
"""

import contextlib
import hashlib
import importlib.metadata
import os
import re
import secrets
import shutil
from pathlib import Path

import elmanctl
from elmanctl.errors import UserError
from elmanctl.toolchain import csrc_folder
from elmanctl.variant import Variant

SNAPSHOTS = ".snapshots"
LEFT_OUT = ("__pycache__", ".pytest_cache")
NAMESPACE = "elmanctl_variants."
HASH = 16  # hexadecimal digits
NAME = re.compile(rf"[0-9a-f]{{{HASH}}}|\.[0-9a-f]{{{HASH}}}\.[0-9]+-[0-9a-f]+")


def take(runs: Path, suite: Path, variants: list[Variant]) -> Path:
    """Keep the present sources below a folder of runs and return the snapshot's folder.

    Raises:
        UserError: when it cannot be written.
    """
    files = dict(sorted(sources(suite, variants).items()))
    content = {name: path.read_bytes() for name, path in files.items()}
    content["versions.txt"] = "".join(f"{line}\n" for line in versions()).encode()
    total = hashlib.sha256()
    for name, data in content.items():
        total.update(f"{name}\0{len(data)}\0".encode() + data)
    final = place(runs, total.hexdigest()[:HASH])
    if final.is_dir():
        with contextlib.suppress(OSError):
            os.utime(final)  # in use again, so that `runs gc` leaves it
        return final
    aside = final.with_name(f".{final.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        for name, data in content.items():
            path = aside / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        aside.rename(final)
    except OSError as error:
        if final.is_dir():  # somebody else kept the same sources at the same moment
            return final
        raise UserError(
            f"{final}: {error.strerror}. The sources of the run could not be kept; free some space, or start bench where runs/ can be written."
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return final


def place(runs: Path, name: str) -> Path:
    """Return the folder of a snapshot by its name."""
    return runs / SNAPSHOTS / name


def is_snapshot(path: Path) -> bool:
    """Return whether a path is a snapshot, or one that was not finished: others keep folders of the name `.snapshots` too."""
    return NAME.fullmatch(path.name) is not None and path.is_dir() and not path.is_symlink()


def sources(suite: Path, variants: list[Variant]) -> dict[str, Path]:
    """Return the files of a snapshot: place in it -> file."""
    tool = Path(elmanctl.__file__).parent
    found = {f"elmanctl/{name}": path for name, path in below(tool).items()}
    found |= {f"csrc_common/{name}": path for name, path in below(csrc_folder()).items()}
    for variant in variants:
        if variant.package.startswith(NAMESPACE):
            found |= {f"variants/{variant.folder.name}/{name}": path for name, path in below(variant.folder).items()}
    if suite.is_file():
        found[f"suites/{suite.name}"] = suite
    return found


def below(folder: Path) -> dict[str, Path]:
    """Return the files below a folder by their place in it, without caches."""
    return {
        path.relative_to(folder).as_posix(): path
        for path in folder.rglob("*")
        if path.is_file() and not any(part in LEFT_OUT or part.endswith(".pyc") for part in path.parts)
    }


def versions() -> list[str]:
    """Return `name==version` of every installed package, sorted."""
    return sorted(
        {f"{d.metadata['Name']}=={d.version}" for d in importlib.metadata.distributions() if d.metadata["Name"]}
    )


def environment(snapshot: Path) -> dict[str, str]:
    """Return the variables under which a trial runs from a snapshot: neither the current folder nor local variants come first.

    Raises:
        UserError: when the snapshot is not there any more.
    """
    root = snapshot.resolve()
    if not root.is_dir():
        raise UserError(
            f"{root}, the sources that the run was queued with, is gone. Queue its rows anew with bench --again."
        )
    before = os.environ.get("PYTHONPATH")
    found = {
        "PYTHONPATH": f"{root}{os.pathsep}{before}" if before else str(root),
        "PYTHONSAFEPATH": "1",
        "PYTHONDONTWRITEBYTECODE": "1",  # a snapshot stays what its name says
        "ELMANCTL_NO_LOCAL": "1",
    }
    if (root / "variants").is_dir():
        found["ELMANCTL_VARIANTS"] = str(root / "variants")
    return found
