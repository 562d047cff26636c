"""Whole files, written so that a killed process or a full disk leaves the old one; JSON records, read back with their type."""

import contextlib
import json
import os
import secrets
from pathlib import Path
from typing import Any

import msgspec

from elmanctl.errors import UserError

# What msgspec raises for bytes that are no such record: not JSON or another kind, text that is not UTF-8, brackets without end.
DAMAGED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


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
        UserError: when the file is missing or unreadable, does not hold a `kind`, or is of a later schema than this program's.
    """
    name = getattr(kind, "__name__", str(kind))
    try:
        content = Path(path).read_bytes()
        newer(path, content, kind)
        return msgspec.json.decode(content, type=kind)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from None
    except DAMAGED as error:
        raise UserError(f"{path} is not a {name} record: {error}.") from None


class _Versioned(msgspec.Struct):
    schema: int = 0


def newer(path: Path, content: bytes, kind: Any) -> None:
    """Refuse a record of a later schema: it may mean something else than this program would read into it.

    Raises:
        UserError: naming both schemas.
    """
    known = {f.name: f.default for f in msgspec.structs.fields(kind)} if isinstance(kind, type(msgspec.Struct)) else {}
    if "schema" not in known:
        return
    try:
        schema = msgspec.json.decode(content, type=_Versioned).schema
    except DAMAGED:
        return  # the caller says what is wrong with it
    if schema > known["schema"]:
        raise UserError(
            f"{path} was written by a newer elmanctl (schema {schema}; this one reads {known['schema']}). Update elmanctl."
        )


def read_lines(path: Path, kind: type) -> list:
    """Read a file of one record a line; a last line cut off by a kill is dropped.

    Raises:
        UserError: when it cannot be read, naming the line that is no such record.
    """
    try:
        lines = Path(path).read_bytes().split(b"\n")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from None
    last = lines.pop()
    decoder = msgspec.json.Decoder(kind)
    try:
        records = decoder.decode_lines(b"\n".join(lines))
    except DAMAGED:
        records = [_decoded(decoder, path, number, line) for number, line in enumerate(lines, 1) if line]
    try:
        return [*records, decoder.decode(last)] if last else records
    except DAMAGED:
        return records


def _decoded(decoder: msgspec.json.Decoder, path: Path, number: int, line: bytes):
    try:
        return decoder.decode(line)
    except DAMAGED as error:
        raise UserError(f"{path} line {number} is not a {decoder.type.__name__} record: {error}.") from None
