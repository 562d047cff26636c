"""Starts the watched process and gathers what it said."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

SECONDS = 300


@dataclass
class Ended:
    """What a watched process said until it ended.

    Args:
        code: exit status, negative for a signal; None where it was ended for taking too long.
        stderr: all that it wrote there.
        ended: cases that ran to their end.
        last: the case in which it ended, if any.
        errors: (case, text) of calls that the kernel or the runtime refused.
        tensors: name -> (address, bytes) of the last call.
        done: whether it came to its end.
    """

    code: int | None
    stderr: str
    ended: list[str] = field(default_factory=list)
    last: str = ""
    errors: list[tuple[str, str]] = field(default_factory=list)
    tensors: dict[str, tuple[int, int]] = field(default_factory=dict)
    done: bool = False


def read(lines: Sequence[str]) -> Ended:
    """Read the lines that the child wrote; a last one that was cut off is left out, and what others printed too."""
    found = Ended(0, "")
    for line in lines:
        try:
            word = json.loads(line)
        except ValueError:
            continue
        if not isinstance(word, dict):
            continue
        if "begin" in word:
            found.last = word["begin"]
        elif "end" in word:
            found.ended.append(word["end"])
            found.last = ""
        elif "error" in word:
            found.errors.append((found.last, word["error"]))
        elif "tensors" in word:
            found.tensors = {name: (place[0], place[1]) for name, place in word["tensors"].items()}
        found.done = found.done or "done" in word
    return found


def start(
    asked: Mapping, environment: Mapping[str, str], before: Sequence[str] = (), seconds: float = SECONDS
) -> Ended:
    """Run the child with further variables, behind the command `before`; end both at the time-out."""
    call = [*before, sys.executable, "-m", "elmanctl.verify.sanitize.child"]
    process = subprocess.Popen(
        call,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | dict(environment),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=bool(before),  # what `before` starts can be ended with it
    )
    try:
        out, err = process.communicate(json.dumps(asked), timeout=seconds)
        code: int | None = process.returncode
    except subprocess.TimeoutExpired:
        _end(process, before)
        out, err = process.communicate()
        code = None
    except BaseException:
        _end(process, before)
        raise
    found = read(out.splitlines())
    found.code, found.stderr = code, err
    return found


def _end(process: subprocess.Popen, before: Sequence[str]) -> None:
    if not before:
        process.kill()
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
