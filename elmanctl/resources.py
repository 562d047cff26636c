"""What a device build uses: registers, spills, stack and shared memory per kernel, as ptxas reports them.

A performance gate that needs no GPU: compared with the previous build of the same kernel and with the budgets of binding.py.
"""

import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from elmanctl.files import write_json

REGISTERS_PER_SM = 65536
WARPS_PER_SM = 64
GATED = ("sm_80", "sm_89", "sm_90a")  # for which budgets were set
ENTRY = re.compile(r"Compiling entry function '(?P<name>[^']+)'")
STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers")
SHARED = re.compile(r"(\d+) bytes smem")


def read_report(log: str, target: str) -> list[dict]:
    """Read ptxas's verbose output.

    Returns:
        one dict per kernel function: function, registers, spill_bytes, stack_bytes, shared_bytes (static only) and
        warps_per_sm (what registers alone allow). Empty for the host.
    """
    if target == "host":
        return []
    rows, row = [], None
    for line in log.splitlines():
        if found := ENTRY.search(line):
            row = {"function": found["name"], "registers": 0, "spill_bytes": 0, "stack_bytes": 0, "shared_bytes": 0}
            rows.append(row)
        elif row is not None:
            if found := STACK.search(line):
                row["stack_bytes"], row["spill_bytes"] = int(found[1]), int(found[2]) + int(found[3])
            if found := USED.search(line):
                row["registers"] = int(found[1])
                row["shared_bytes"] = int(found[1]) if (found := SHARED.search(line)) else 0
                row["warps_per_sm"] = warps_per_sm(row["registers"])
    for row, name in zip(rows, demangle([r["function"] for r in rows]), strict=True):
        row["function"] = name
    return rows


def warps_per_sm(registers: int) -> int:
    """Return how many warps fit a multiprocessor by registers alone (allocated in units of 8 a thread)."""
    return min(WARPS_PER_SM, REGISTERS_PER_SM // (32 * max(8, (registers + 7) // 8 * 8)))


def demangle(names: list[str]) -> list[str]:
    """Return readable function names, without their parameter lists, where c++filt is installed."""
    if not names or not shutil.which("c++filt"):
        return names
    text = subprocess.run(["c++filt", *names], capture_output=True, text=True, check=True).stdout.splitlines()
    return [re.sub(r"\(anonymous namespace\)::", "", t).split("(")[0].removeprefix("void ") for t in text]


def gated(target: str) -> bool:
    """Return whether a figure above its budget fails a build for a target. Compilers divide registers differently for newer chips,
    on which no kernel was tuned: there it is a remark.
    """
    return not target.startswith("sm_") or target in GATED


def over_budget(report: list[dict], budgets: Mapping[str, int]) -> list[str]:
    """Return a sentence for each figure above its budget."""
    return [
        f"{row['function']}: {name}={row[name]} is above the budget of {limit} in binding.py"
        for row in report
        for name, limit in budgets.items()
        if row.get(name, 0) > limit
    ]


def _slot(cache: Path, package: str, constants: Mapping[str, int], dtype: str, target: str) -> Path:
    text = json.dumps([package, dict(constants), dtype, target], sort_keys=True)
    return cache / "last" / (hashlib.sha256(text.encode()).hexdigest()[:24] + ".json")


def remember(cache: Path, package: str, constants: Mapping[str, int], dtype: str, target: str, key: str) -> None:
    """Note `key` as the newest build of one kernel configuration; the one before it stays known."""
    path = _slot(cache, package, constants, dtype, target)
    known = json.loads(path.read_text()) if path.exists() else []
    write_json(path, [key, *(k for k in known if k != key)][:2])


def previous_report(
    cache: Path, package: str, constants: Mapping[str, int], dtype: str, target: str
) -> list[dict] | None:
    """Return the report of the build before the newest, or None."""
    path = _slot(cache, package, constants, dtype, target)
    known = json.loads(path.read_text()) if path.exists() else []
    report = cache / "kernels" / known[1] / "report.json" if len(known) > 1 else None
    return json.loads(report.read_text()) if report and report.exists() else None
