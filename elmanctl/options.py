"""Options of a variant: how a Config declares them, and how text becomes a value."""

import dataclasses
from collections.abc import Iterable
from typing import Any

from elmanctl.errors import UserError
from elmanctl.sizes import LARGEST

WANTED = {bool: "true or false", int: "a whole number", float: "a number", str: "a word without , : ="}


def tagged(tag: str, default: int, help: str = "") -> Any:
    """Declare an integer Config field that is spelled in the name, as the `h4` of X7h4n32."""
    return dataclasses.field(default=default, metadata={"tag": tag, "help": help})


def option(default: bool | int | float | str, help: str = "", choices: tuple[str, ...] = (), same: bool = False) -> Any:
    """Declare a Config field that is given as `name=value` and checked against `choices` where there are any.

    `same`: it chooses between ways to compute the same thing; verify then demands that nothing changes.
    """
    return dataclasses.field(default=default, metadata={"help": help, "choices": choices, "same": same})


def convert(label: str, config_field: dataclasses.Field, value: Any) -> Any:
    """Convert one option, text or already typed, to its field's type.

    Raises:
        UserError: when the value does not have the type of the field's default, is too large, or not among its choices.
    """
    kind = type(config_field.default)
    try:
        if kind is bool:
            result = value if isinstance(value, bool) else {"true": True, "false": False}[str(value).lower()]
        elif isinstance(value, bool) or (kind is int and isinstance(value, float)):
            raise ValueError
        elif kind is str:
            result = legible(str(value), config_field.metadata.get("choices", ()))
        else:
            result = kind(value)
            if result != result:
                raise ValueError
    except (ValueError, KeyError, TypeError):
        wanted = WANTED[kind]
        raise UserError(
            f"{label}: {config_field.name}={value} is not {wanted}. Default: {show(config_field.default)}."
        ) from None
    if kind is int and abs(result) > LARGEST:
        raise UserError(
            f"{label}: {config_field.name}={value} is more than {LARGEST}, the largest number of 32 bits, in which sizes are counted."
        )
    choices = config_field.metadata.get("choices")
    if choices and result not in choices:
        raise UserError(f"{label}: {config_field.name}={value} is not one of {', '.join(map(str, choices))}.")
    return result


def legible(value: str, choices: tuple[str, ...]) -> str:
    """Return a text option in the case of its choice; refuse what could not be written inside a name."""
    if any(c in value for c in ",:=") or value != value.strip() or not value:
        raise ValueError
    return next((c for c in choices if c.lower() == value.lower()), value)


def declared(name: str, config: type) -> dict[str, dataclasses.Field]:
    """Return a Config's fields by name.

    Raises:
        TypeError, ValueError: when the class is no frozen dataclass, a field has no default of a plain type, or two tags clash.
    """
    if not dataclasses.is_dataclass(config) or not config.__dataclass_params__.frozen:
        raise TypeError(f"{name}: {config!r} is not a frozen dataclass")
    fields = {f.name: f for f in dataclasses.fields(config)}
    for f in fields.values():
        if type(f.default) not in WANTED:
            raise TypeError(f"{name}: option {f.name} needs a default that is a bool, int, float or str")
        if f.metadata.get("choices") and f.default not in f.metadata["choices"]:
            raise ValueError(f"{name}: the default of option {f.name} is not among its choices")
    tags = [f.metadata["tag"].lower() for f in fields.values() if "tag" in f.metadata]
    if any(not tag.isalpha() for tag in tags) or len(set(tags)) < len(tags):
        raise ValueError(f"{name}: tags {', '.join(tags)} must be letters and differ from each other")
    return fields


def show(value: Any) -> str:
    """Return an option's value as it is written in a name."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def parse_options(pairs: Iterable[str], label: str = "-o") -> dict[str, str]:
    """Parse `key=value` texts, as given by `-o` or after the colon of a name.

    Raises:
        UserError: for a text without `=`, or a key given twice.
    """
    options: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        key = key.strip()
        if not equals or not key:
            raise UserError(f"{label}: {pair!r} is not option=value, for example -o use_gate=true.")
        if key in options:
            raise UserError(f"{label}: option {key} is given twice. Give it once.")
        options[key] = value.strip()
    return options
