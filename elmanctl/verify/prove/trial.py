"""Run one mutant in a process of its own: it may hang, crash, or write where it likes.

The child reports each case as it is done; a death or the end of its time is a rejection by the case at hand.
"""

import contextlib
import faulthandler
import hashlib
import json
import os
import resource
import select
import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from elmanctl import build
from elmanctl.errors import CheckFailed
from elmanctl.kernel import Kernel
from elmanctl.toolchain import HOST
from elmanctl.verify import properties
from elmanctl.verify.run import Compiled, run
from elmanctl.verify.truth import Problem, Truth

PROPERTIES = ("repeat", "fiber-order")
MEMORY = 1 << 33  # bytes of address space beyond which a mutant's allocation fails


@dataclass(frozen=True)
class Bench:
    """What mutants of one kernel and dtype run on: cases with their truths, by name.

    `builds` are the compile-time constants of every library that the cases need: a tiling may ask for several.
    `every`: all cases run, also where one has rejected already, so that each shape has a score of its own; else up to the first that
    rejects. `thorough`: problems on which one that passes must give the same bits to count as equivalent.
    """

    kernel: Kernel
    constants: Mapping[str, int]
    builds: tuple[Mapping[str, int], ...]
    dtype: str
    truths: Mapping[str, Truth]
    quick: tuple[str, ...]
    rest: tuple[str, ...]
    property_case: str = ""
    every: bool = False
    thorough: Mapping[str, Problem] = field(default_factory=dict)


@dataclass
class Report:
    """What one mutant did: cases that passed it, what rejected it (by case, with why and in which tensors), hashes, seconds."""

    passed: list[str] = field(default_factory=list)
    rejected: dict[str, str] = field(default_factory=dict)
    tensors: dict[str, list[str]] = field(default_factory=dict)
    results: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def killed(self) -> bool:
        return bool(self.rejected)


def trial(bench: Bench, libraries: Sequence[Path], limit: float) -> Report:
    """Run libraries, one for each of the bench's builds, on the cases in a forked child, for at most `limit` seconds."""

    def work(say: Callable[[dict], None]) -> None:
        _install(bench, libraries)
        killed = False
        for id in (*bench.quick, *PROPERTIES, *bench.rest):
            if killed and not bench.every and id not in bench.quick:
                break
            say({"case": id})
            why, digest, tensors = _case(bench, id)
            killed = killed or bool(why)
            say({"case": id, "why": why, "digest": digest, "tensors": tensors})

    started, report, at, complete = time.monotonic(), Report(), "", False
    for message in isolated(work, limit):
        at = message.get("case", at)
        if message.get("end"):
            complete = True
        elif "why" in message:
            if message["why"]:
                report.rejected[at], report.tensors[at] = message["why"], message["tensors"]
            else:
                report.passed.append(at)
                report.results[at] = message["digest"]
    report.seconds = time.monotonic() - started
    if not complete:
        report.rejected[at] = "hangs" if report.seconds >= limit else "crashes"
    return report


def _case(bench: Bench, id: str) -> tuple[str, str, list[str]]:
    """Return why a case or property rejects the library (empty: it does not), a hash of the results, and the wrong tensors."""
    library = Compiled(bench.kernel, bench.constants)
    try:
        if id in PROPERTIES:
            check = properties.check_property(id, library, bench.truths[bench.property_case].problem)
            return ("" if check.ok else check.message), "", []
        truth = bench.truths[id]
        got = run(library, truth.problem)
    except (CheckFailed, RuntimeError) as error:
        return str(error) or type(error).__name__, "", []
    if bad := [row for row in truth.judge(got) if not row.ok]:
        row = max(bad, key=lambda r: r.ratio)
        return f"{row.tensor} {row.ratio:.3g} times its limit", "", [row.tensor for row in bad]
    return "", digest_of(got), []


def digest_of(results: Mapping[str, Tensor]) -> str:
    """Return a hash over the bits of results."""
    total = hashlib.sha256()
    for name, t in sorted(results.items()):
        total.update(name.encode() + t.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def _install(bench: Bench, libraries: Sequence[Path]) -> None:
    for constants, library in zip(bench.builds, libraries, strict=True):
        build.substitute(bench.kernel, constants, bench.dtype, HOST, library)


def bits(bench: Bench, libraries: Sequence[Path], limit: float) -> dict[str, str]:
    """Run libraries, one for each build, on the thorough problems in a forked child; return a hash of the results of each that came to its end."""

    def work(say: Callable[[dict], None]) -> None:
        _install(bench, libraries)
        for id, problem in bench.thorough.items():
            try:
                say({"case": id, "digest": digest_of(run(Compiled(bench.kernel, bench.constants), problem))})
            except (CheckFailed, RuntimeError) as error:
                say({"case": id, "digest": f"refused: {error}"})

    return {m["case"]: m["digest"] for m in isolated(work, limit) if "case" in m}


def isolated(work: Callable[[Callable[[dict], None]], None], limit: float) -> Iterable[dict]:
    """Fork, run `work(say)` in the child, and yield what it says, then `{"end": true}` if it came to its end within `limit` seconds."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        _child(work, write, limit)
    os.close(write)
    deadline, buffer = time.monotonic() + limit, b""
    try:
        while (left := deadline - time.monotonic()) > 0:
            if not select.select([read], [], [], left)[0]:
                break
            part = os.read(read, 1 << 16)
            if not part:
                break
            *lines, buffer = (buffer + part).split(b"\n")
            yield from map(json.loads, lines)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(read)


def _child(work, write: int, limit: float) -> None:
    """Run in the child, which never returns. Its words go to nobody: a mutant's runtime may complain at length."""
    status = 1
    try:
        faulthandler.disable()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (int(limit) + 2, int(limit) + 3))
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)

        def say(message: dict) -> None:
            os.write(write, json.dumps(message).encode() + b"\n")

        work(say)
        say({"end": True})
        status = 0
    finally:
        os._exit(status)
