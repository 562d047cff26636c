"""Whole files, written so that a killed process or a full disk leaves the old one; JSON records, read back with their type."""

import contextlib
import json
import os
import secrets
from pathlib import Path
from typing import Any

import msgspec

from elmanctl.errors import UserError


@contextlib.contextmanager
def atomic(path: Path, mode: str = "w"):
    """Write a file aside and rename it into place, so that a killed process leaves the old one or the new one.

    Raises:
        UserError: when the disk is full or the folder cannot be written.
    """
    path = Path(path)
    name = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        name = (
            path.parent / f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}"
        )  # by open, so that the umask decides who may read
        with name.open(mode.replace("w", "x")) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
        name = None
    except OSError as error:
        raise UserError(
            f"{path} could not be written: {error.strerror or error}. "
            "Free some space or choose another folder; the previous file is intact."
        ) from error
    finally:
        if name is not None:
            with contextlib.suppress(OSError):
                os.unlink(name)


def write_json(path: Path, record: Any) -> None:
    """Write a record (a struct or plain data) as indented JSON, atomically."""
    with atomic(path) as file:
        file.write(json.dumps(msgspec.to_builtins(record), indent=1) + "\n")


def read_json(path: Path, kind: type):
    """Read a record written by write_json.

    Raises:
        UserError: when the file is missing or does not hold a `kind`.
    """
    try:
        return msgspec.json.decode(Path(path).read_bytes(), type=kind)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist.") from None
    except msgspec.DecodeError as error:
        raise UserError(f"{path} is not a {kind.__name__} record: {error}.") from None
