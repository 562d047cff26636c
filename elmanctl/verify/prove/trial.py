"""Run one mutant in a process of its own: it may hang, crash, or write where it likes.

The child reports each case as it is done; a death or the end of its time is a rejection by the case at hand.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from elmanctl import build
from elmanctl.errors import CheckFailed
from elmanctl.kernel import Kernel
from elmanctl.toolchain import HOST
from elmanctl.verify import properties
from elmanctl.verify.prove.child import Say, isolated
from elmanctl.verify.run import Compiled, run
from elmanctl.verify.truth import Problem, Truth

PROPERTIES = ("repeat", "fiber-order")
REFUSED = "launch refused"  # what the host says of a launch that no device would take


@dataclass(frozen=True)
class Bench:
    """What mutants of one kernel and dtype run on: cases with their truths, by name.

    `builds` are the compile-time constants of every library that the cases need: a tiling may ask for several.
    `every`: all cases run, also where one has rejected already, so that each shape has a score of its own; else up to the first that
    rejects. `thorough`: further problems on which one that passes must give the same bits to count as equivalent; `further` has those that need
    other builds, which are made only of mutants that are equal on all of these.
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
    further: "Bench | None" = None


@dataclass
class Report:
    """What one mutant did: cases that passed it, what rejected it (by case, with why and in which tensors), hashes, seconds of processor time."""

    passed: list[str] = field(default_factory=list)
    rejected: dict[str, str] = field(default_factory=dict)
    tensors: dict[str, list[str]] = field(default_factory=dict)
    results: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def killed(self) -> bool:
        return bool(self.rejected)

    @property
    def refused(self) -> bool:
        """Whether nothing rejects it but the launch, before a thread has run."""
        return self.killed and all(REFUSED in why for why in self.rejected.values())


def trial(bench: Bench, libraries: Sequence[Path], limit: float) -> Report:
    """Run libraries, one for each of the bench's builds, on the cases in a forked child, for at most `limit` seconds of its time."""

    def work(say: Say) -> None:
        _install(bench, libraries)
        killed = False
        for id in (*bench.quick, *PROPERTIES, *bench.rest):
            if killed and not bench.every and id not in bench.quick:
                break
            say({"case": id})
            why, digest, tensors = _case(bench, id)
            killed = killed or bool(why)
            say({"case": id, "why": why, "digest": digest, "tensors": tensors})

    ended, at = isolated(work, limit), ""
    report = Report(seconds=ended.seconds)
    for message in ended.said:
        at = message["case"]
        if message.get("why"):
            report.rejected[at], report.tensors[at] = message["why"], message["tensors"]
        elif "why" in message:
            report.passed.append(at)
            report.results[at] = message["digest"]
    if ended.how != "end":
        report.rejected[at] = ended.how
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
    if bad := {tensor: ratio for tensor, ratio in truth.ratios(got).items() if ratio > 1}:
        worst = max(bad, key=bad.get)
        return f"{worst} {bad[worst]:.3g} times its limit", "", list(bad)
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


def bits(
    bench: Bench, libraries: Sequence[Path], limit: float, known: Mapping[str, str] | None = None
) -> tuple[dict[str, str], float]:
    """Run libraries, one for each build, on the thorough problems in a forked child.

    Args:
        known: hashes at whose first difference it ends.
    Returns:
        a hash of the results of each problem that came to its end, and seconds of processor time.
    """

    def work(say: Say) -> None:
        _install(bench, libraries)
        for id, problem in bench.thorough.items():
            try:
                digest = digest_of(run(Compiled(bench.kernel, bench.constants), problem))
            except (CheckFailed, RuntimeError) as error:
                digest = f"refused: {error}"
            say({"case": id, "digest": digest})
            if known and known[id] != digest:
                break

    ended = isolated(work, limit)
    return {m["case"]: m["digest"] for m in ended.said}, ended.seconds
