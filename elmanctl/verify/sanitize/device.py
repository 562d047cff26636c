"""NVIDIA's compute-sanitizer around a small run of the kernel; its report is read, not only its exit code."""

import os
import re
import shutil
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from elmanctl import build
from elmanctl.toolchain import sources
from elmanctl.verify.cases import Case
from elmanctl.verify.sanitize import process

SUMMARY = re.compile(
    r"^=+ (?:ERROR|RACECHECK|INITCHECK) SUMMARY: (?P<count>\d+) (?:errors?|hazards? displayed)\b(?! were)"
)
START = re.compile(r"^=+ (?P<text>\S.*)$")
MORE = re.compile(r"^=+ {2,}(?P<text>\S.*)$")
NOT_A_FINDING = re.compile(
    r"COMPUTE-SANITIZER|.*SUMMARY:|Target application|LEAK|Error: process didn't terminate|Saved host backtrace|Host Frame"
)
REFUSED = re.compile(
    r"Error: .*(?:not supported|Failed to initialize|[Uu]nable to|Internal (?:Sanitizer )?[Ee]rror|injection|[Pp]ermission|insufficient)"
)
PLACE = re.compile(r"\bin (?P<file>\S+?):(?P<line>\d+)(?=$|[\s:\[])")
OFFSET = re.compile(r"\+?0x[0-9a-f]+ in |\+0x[0-9a-f]+")
LIMIT = 20
CANDIDATES = ("/usr/local/cuda/bin/compute-sanitizer", "/usr/local/cuda/compute-sanitizer/compute-sanitizer")


@dataclass(frozen=True)
class Reading:
    """A report as read.

    Args:
        count: errors or hazards that the summary counts; None without a summary.
        ours: findings in the kernel's own files, one sentence each.
        elsewhere: how many findings lie in other code (torch's kernels).
        refused: why the tool could not watch the device; empty if it could.
    """

    count: int | None
    ours: list[str]
    elsewhere: int
    refused: str


def find() -> str | None:
    """Return the path of compute-sanitizer, if it is installed."""
    return shutil.which("compute-sanitizer") or next((p for p in CANDIDATES if os.access(p, os.X_OK)), None)


def read(text: str, names: Collection[str]) -> Reading:
    """Read a report.

    Args:
        text: the tool's output, every line of which it starts with `=========`.
        names: file names of the kernel and the headers it reaches.
    """
    count, refused, blocks = None, "", []
    for line in text.splitlines():
        if summary := SUMMARY.match(line):
            count = (count or 0) + int(summary["count"])
        elif REFUSED.search(line):
            refused = refused or line.lstrip("= ").removeprefix("Error: ").rstrip(".")
        elif more := MORE.match(line):
            if blocks and not NOT_A_FINDING.match(more["text"]):
                blocks[-1].append(more["text"])
        elif (start := START.match(line)) and not NOT_A_FINDING.match(start["text"]):
            blocks.append([start["text"]])
    ours = [" ".join(block) for block in blocks if is_ours(block, names)]
    return Reading(count, [OFFSET.sub("", text) for text in ours], len(blocks) - len(ours), refused)


def is_ours(block: Sequence[str], names: Collection[str]) -> bool:
    """Return whether a finding names one of the kernel's files, or a function that takes its arguments."""
    text = " ".join(block)
    return "args::" in text or any(PurePath(found["file"]).name in names for found in PLACE.finditer(text))


def verdict(reading: Reading, ended: process.Ended, tool: str) -> tuple[bool, str, bool]:
    """Return (passed, text, ran) from a report and from how the watched process ended."""
    if reading.ours:
        more = f", and {len(reading.ours) - 1} more findings" if len(reading.ours) > 1 else ""
        return False, reading.ours[0] + more, True
    if reading.refused:
        return True, f"not run: compute-sanitizer says: {reading.refused}", False
    if ended.errors:
        case, text = ended.errors[0]
        return False, f"{text} (in {case})", True
    if ended.code is None:
        return False, f"{tool}: no end within {process.SECONDS} s" + (f" (in {ended.last})" if ended.last else ""), True
    if not ended.done:  # a summary of 0 errors says nothing of a run that broke off
        return False, f"{tool}: the watched process broke off: {ended.stderr.strip()[-600:]}", True
    if reading.count is None:
        return True, f"not run: {tool} left no summary, so it saw nothing", False
    if reading.count and not reading.elsewhere:
        return False, f"{tool} counts {reading.count} errors that its report does not describe", True
    note = f"; {reading.elsewhere} findings outside this kernel, in other code" if reading.elsewhere else ""
    return True, f"{len(ended.ended)} runs forward and backward, nothing found{note}", True


def check(plan, tool: str, todo: Sequence[Case]) -> tuple[bool, str, bool]:
    """Run one tool of compute-sanitizer over cases on the device."""
    from elmanctl import launch

    path, target, request = find(), plan.request.target, plan.request
    if path is None:
        return True, "not run: compute-sanitizer is not installed (it comes with the CUDA toolkit)", False
    for case in todo:
        constants = plan.kernel.complete(plan.constants, dict(case.sizes), case.dtype, launch.device(target))
        build.build(plan.kernel, constants, case.dtype, target)
    ids = [c.id for c in todo]
    asked = {"model": plan.spec.name, "device": "cuda", "target": target, "cases": ids, "seed": request.seed}
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "report.txt"
        before = [path, "--tool", tool, "--print-limit", str(LIMIT), "--log-file", str(log)]
        before += ["--report-api-errors", "no"] if tool == "memcheck" else []
        # Without torch's cache every tensor is an allocation of its own, so that an access past its end is one.
        ended = process.start(asked, {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}, before)
        text = log.read_text(errors="replace") if log.exists() else ""
    # Before it starts the program, the tool complains on stderr.
    reading = read(
        "\n".join([text, *(line for line in ended.stderr.splitlines() if line.startswith("====="))]), names(plan)
    )
    return verdict(reading, ended, tool)


def names(plan) -> set[str]:
    """Return the names of the kernel's files."""
    return {path.name for path in sources(plan.spec.variant.folder)}
