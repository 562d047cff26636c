"""`verify --watch`: verify now and whenever a source changes, in a process that has torch already.

A change of the tool's own modules that a variant is made of (families and the like) starts the whole process anew: it has the old ones.
"""

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from elmanctl.console import note
from elmanctl.plugins.discovery import forget
from elmanctl.plugins.registry import registry
from elmanctl.variant import Spec

POLL_SECONDS = 0.2


def follow(specs: list[Spec], arguments: list[str]) -> None:
    """Run a command line now and whenever a source of these variants changes, until interrupted."""
    from elmanctl.verify import pool, remembered, session  # noqa: F401  (each run is forked from here, and starts without importing them)

    pool.prepare(every=True)
    with tempfile.TemporaryDirectory(prefix="elmanctl-watch-") as folder:
        remembered.folder = Path(folder)
        try:
            _follow(specs, arguments)
        finally:
            remembered.folder = None


def _follow(specs: list[Spec], arguments: list[str]) -> None:
    seen: dict[Path, int] = {}
    while True:
        now = stamps(specs)
        if now != seen:
            if any(seen.get(path, stamp) != stamp for path, stamp in now.items() if path in modules(specs)):
                restart()
            seen = now
            note(time.strftime("%H:%M:%S") + f" verifying {', '.join(s.name for s in specs)}")
            again(specs, arguments)
            note("Waiting for a change; Ctrl-C ends.")
        time.sleep(POLL_SECONDS)


def restart() -> None:
    """Become a new process of the same command line."""
    from elmanctl.verify import remembered

    note("A module of elmanctl itself changed: starting anew.")
    if remembered.folder:
        shutil.rmtree(remembered.folder, ignore_errors=True)
    sys.stdout.flush()
    os.execv(sys.executable, sys.orig_argv)


def modules(specs: list[Spec]) -> set[Path]:
    """Return the tool's own modules that these variants are made of."""
    from elmanctl.verify.hashes import second_mode, shared_modules

    return {path for spec in specs for path in (*shared_modules(spec.variant), *second_mode(spec))}


def again(specs: list[Spec], arguments: list[str]) -> int:
    """Run a command line in a forked process that reads the variants' folders anew; return its exit code."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            for spec in specs:
                forget(spec.variant.package)
            registry.cache_clear()
            from elmanctl.cli import run

            code = run(arguments)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    try:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except KeyboardInterrupt:
        os.waitpid(pid, 0)  # the terminal interrupted it too
        raise


def stamps(specs: list[Spec]) -> dict[Path, int]:
    """Return the time of change of every source that a variant's results depend on."""
    from elmanctl.toolchain import sources
    from elmanctl.verify.hashes import code_files

    files = modules(specs)
    for spec in specs:
        files.update(code_files(spec.variant.folder))
        if spec.variant.has_kernel:
            files.update(sources(spec.variant.folder))
    return {path: path.stat().st_mtime_ns for path in files if path.exists()}
