"""Errors that a user can meet: what was given, which rule it breaks and why, what to do next."""

import difflib


class UserError(Exception):
    """A mistake in the request. The CLI prints it without a traceback and exits with code 2."""


class CheckFailed(Exception):
    """A check ran and its answer is no (a kernel is wrong, a run diverged). The CLI exits with code 1."""


def near_misses(given: str, known, count: int = 4) -> list[str]:
    """Return up to `count` names from `known` close to `given`, ignoring case, best first."""
    by_lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(given.lower(), list(by_lower), n=count, cutoff=0.6)
    return [by_lower[name] for name in close]


def did_you_mean(given: str, known) -> str:
    """Return ` Close: A, B.` for an error message, or an empty string when nothing is close."""
    close = near_misses(given, known)
    return f" Close: {', '.join(close)}." if close else ""
