"""Reading a suite's YAML file strictly: unknown and repeated keys, wrong types and bad values are errors that name the key."""

import re
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

import msgspec
import yaml

from elmanctl import dims
from elmanctl.errors import UserError, did_you_mean
from elmanctl.records import Budget, Training, check_shares


class RowFile(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One row as the file has it."""

    model: str
    label: str = ""
    options: dict[str, Any] = {}
    dim: int | None = None
    depth: int | None = None
    align: int | None = None


class SuiteFile(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A suite as the file has it; see the module's description."""

    description: str
    rows: list[RowFile]
    params: str | int | None = None
    depth: int = dims.DEPTH
    tolerance: str | float = dims.TOLERANCE
    align: int | None = None
    relaxed: tuple[str, ...] = ()
    matched: bool = True
    device: Literal["cuda", "cpu"] = "cuda"
    budget: Budget = msgspec.field(default_factory=lambda: Budget(minutes=10))
    training: Training = msgspec.field(default_factory=Training)
    seeds: int | list[int] = 1
    gpus_per_trial: int = 1


class _Loader(yaml.SafeLoader):
    """YAML in which a key given twice is an error, as the second would win silently, and so is one that is no scalar."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict:
    seen = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            problem = f"a key is {'a list' if isinstance(key, yaml.SequenceNode) else 'a mapping'}; keys are words"
            raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
        if key.value in seen:
            raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} is given twice", key.start_mark)
        seen.add(key.value)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read(path: Path) -> SuiteFile:
    """Read and check a suite's file; texts such as 3e-4, which YAML leaves as text, take the type that is declared.

    Raises:
        UserError: naming file and key for YAML that does not parse, an unknown or repeated key, a wrong type or a missing key.
    """
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path} line {mark.line + 1}" if mark else f"{path}"
        raise UserError(f"{where}: not readable as YAML: {getattr(error, 'problem', None) or error}.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    except (ValueError, AttributeError, RecursionError) as error:  # PyYAML's own
        why = error if isinstance(error, ValueError) else "a tag that its value does not fit, or brackets without end"
        raise UserError(f"{path}: not readable as YAML: {why}. Put what is text in quotes.") from None
    if not isinstance(data, dict):
        raise UserError(f"{path}: a suite is a mapping with the keys {', '.join(SuiteFile.__struct_fields__)}.")
    _known_keys(path, "", data, SuiteFile)
    _known_keys(path, "training.", data.get("training"), Training)
    _known_keys(path, "budget.", data.get("budget"), Budget)
    for number, row in enumerate(data["rows"] if isinstance(data.get("rows"), list) else ()):
        _known_keys(path, f"rows[{number}].", row, RowFile)
    try:
        file = msgspec.convert(data, SuiteFile, strict=False)
    except msgspec.ValidationError as error:
        raise UserError(f"{path}: {described(error)}") from None
    _check(path, file)
    return file


# The types of a suite's file, as its author knows them.
WORDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "array": "a list",
    "object": "a mapping",
}


def described(error: msgspec.ValidationError) -> str:
    """Return what a value of the wrong type is, what it should be, and what to do, from msgspec's message."""
    if found := re.fullmatch(r"Invalid enum value '(?P<got>.*)' - at `\$\.(?P<key>[^`]+)`", str(error)):
        allowed = get_args(get_type_hints(SuiteFile).get(found["key"]))
        return f"{found['key']} is {found['got']}; it must be {' or '.join(allowed)}. Correct it in the file."
    found = re.fullmatch(r"Expected `(?P<wanted>[^`]+)`, got `(?P<got>[^`]+)` - at `\$\.(?P<key>[^`]+)`", str(error))
    if not found:
        return f"{str(error).replace('`$.', '`')}. Correct it in the file."

    def words(types: str) -> str:
        return " or ".join(WORDS.get(name, name) for name in types.split(" | ") if name != "null")

    got = "empty" if found["got"] == "null" else words(found["got"])
    return f"{found['key']} is {got}; it must be {words(found['wanted'])}. Correct it in the file."


def _known_keys(path: Path, where: str, data: Any, kind: type) -> None:
    for key in data if isinstance(data, dict) else ():
        if key not in kind.__struct_fields__:
            known = kind.__struct_fields__
            raise UserError(
                f"{path}: unknown key {where}{key}.{did_you_mean(str(key), known)} Keys: {', '.join(known)}."
            )


def _check(path: Path, file: SuiteFile) -> None:
    try:
        file.budget.check()
        file.training.check()
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    if not file.rows:
        raise UserError(f"{path}: rows is empty. Give at least one {{model: NAME}}.")
    if isinstance(file.seeds, list) and (len(set(file.seeds)) < len(file.seeds) or not file.seeds):
        raise UserError(f"{path}: seeds is {file.seeds}; give a number of seeds, or a list of different ones.")
    try:
        check_shares(file.training.batch, file.gpus_per_trial)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    numbers = {"depth": file.depth, "align": file.align, "seeds": file.seeds if isinstance(file.seeds, int) else None}
    for index, row in enumerate(file.rows):
        numbers |= {f"rows[{index}].{key}": getattr(row, key) for key in ("dim", "depth", "align")}
    for key, value in numbers.items():
        if value is not None and value < 1:
            raise UserError(f"{path}: {key} is {value}; it must be at least 1.")
        if value is not None and key.endswith("depth") and value > dims.DEEPEST:
            raise UserError(
                f"{path}: {key} is {value:,}; more than {dims.DEEPEST:,} layers cannot be trained. Give fewer."
            )
    if file.params is None:
        for row in file.rows:
            if row.dim is None:
                raise UserError(
                    f"{path}: row {row.label or row.model} has no dim and the suite no params. Give one of them."
                )
        if file.matched:
            raise UserError(f"{path}: nothing says how large the rows should be. Give params, or matched: false.")


def waived(relaxed: tuple[str, ...], align: int | None) -> tuple[str, ...]:
    """Return the sizes whose method rules are waived, the width's among them where its step is given."""
    return tuple(dict.fromkeys((*relaxed, "dim"))) if align else relaxed
