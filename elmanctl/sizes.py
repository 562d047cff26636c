"""Sizes as people write them: 100M parameters, 6 % tolerance, 4.2 GiB."""

import re
from collections.abc import Iterable
from decimal import Decimal, InvalidOperation

from elmanctl.errors import UserError

LARGEST = 2**31 - 1  # what a kernel's sizes are counted in
SUFFIXES = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9}


def parse_count(value: str | int, label: str = "--params") -> int:
    """Read a positive whole number, in full or with K, M or B: `98838400`, `500K`, `1.27B`.

    Raises:
        UserError: when the text is no such number; `label` says where it was given.
    """
    text = str(value).strip().replace("_", "")
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([A-Za-z]*)", text)
    if not found:
        raise UserError(f"{label} {value} is not a number. Give one such as 98838400, 500K, 100M or 1.27B.")
    number, suffix = found.groups()
    if suffix.upper() not in SUFFIXES:
        raise UserError(
            f"{label} {value}: unknown suffix {suffix}; K, M and B stand for 10^3, 10^6 and 10^9. Try {number}M."
        )
    count = Decimal(number) * SUFFIXES[suffix.upper()]
    if count != int(count) or count < 1:
        raise UserError(f"{label} {value} is {count.normalize():f}, not a positive whole number.")
    return int(count)


def parse_share(value: str | float, label: str = "--tolerance") -> float:
    """Read a share between 0 and 1, as `6%` or `0.06`.

    Raises:
        UserError: when the text is no number or lies outside of 0 to 1 (100 %).
    """
    text = str(value).strip()
    try:
        share = float(Decimal(text.removesuffix("%").strip()) / (100 if text.endswith("%") else 1))
    except InvalidOperation:
        raise UserError(f"{label} {value} is not a share. Give one such as 6% or 0.06.") from None
    if not 0 <= share <= 1:
        raise UserError(f"{label} {value} is not between 0 and 1. Write 6 per cent as 6% or 0.06.")
    return share


def parse_sizes(given: Iterable[str], label: str = "--size") -> dict[str, int]:
    """Read run-time sizes by name from texts such as `D=2048`.

    Raises:
        UserError: when a text is no such size, is given twice, or is more than 32 bits hold.
    """
    sizes: dict[str, int] = {}
    for text in given:
        found = re.fullmatch(r"([A-Z])=([1-9][0-9]*)", text)
        if found is None:
            raise UserError(f"{label} {text} is no size. Give a letter and a number, for example D=2048.")
        name, digits = found.groups()
        if name in sizes:
            raise UserError(f"{label} {text}: {name}={sizes[name]} is given already. Give one.")
        if len(digits) > len(str(LARGEST)) or int(digits) > LARGEST:
            raise UserError(
                f"{label} {text} is more than {LARGEST}, the largest number of 32 bits, in which sizes are counted."
            )
        sizes[name] = int(digits)
    return sizes


def short_share(share: float) -> str:
    """Return a share as per cent: 6 %."""
    return f"{100 * share:.3g} %"


def short_count(count: int | None) -> str:
    """Return a count with four significant digits: 98.84M, 1.27B; an absent one as an empty text."""
    if count is None:
        return ""
    for suffix, unit in (("B", 10**9), ("M", 10**6), ("K", 10**3)):
        if count >= unit:
            return f"{count / unit:.4g}{suffix}"
    return str(count)


def short_bytes(count: int | None) -> str:
    """Return a number of bytes in KiB, MiB or GiB; an absent one as an empty text."""
    if count is None:
        return ""
    for suffix, unit in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= unit:
            return f"{count / unit:.3g} {suffix}" if count < 1000 * unit else f"{count / unit:,.0f} {suffix}"
    return f"{count} B"
