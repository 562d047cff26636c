"""What verify prints: a table per tensor, the other checks, each failure with the command that repeats it, a summary."""

import shlex
from collections.abc import Iterable
from pathlib import Path

import msgspec

from elmanctl.console import out, print_table
from elmanctl.verify.cases import declared
from elmanctl.verify.plan import Request
from elmanctl.verify.run import Check
from elmanctl.verify.session import Outcome
from elmanctl.verify.tolerance import Row

COLUMNS = ["tensor", "error/limit", "error/truth", "worst in", "where", "first bad", "starts", "error over time"]
RIGHT = ("error/limit", "error/truth", "starts")
MOST = 40  # sparks in a table cell
LISTED = 12


def command(request: Request, check: Check) -> str:
    """Return the command that runs one check alone."""
    parts = ["elmanctl", "verify", request.spec.name, "--case", check.id, "--device", request.device]
    if request.seed:
        parts += ["--seed", str(request.seed)]
    return " ".join(f'"{p}"' if " " in p else shlex.quote(p) for p in parts)


def worst_rows(checks: Iterable[Check]) -> list[tuple[Row, Check]]:
    """Return, for each tensor of the cases, its worst row, in order of first appearance."""
    found: dict[str, tuple[Row, Check]] = {}
    for check in checks:
        for row in check.rows:
            if row.tensor not in found or row.ratio > found[row.tensor][0].ratio:
                found[row.tensor] = (row, check)
    return list(found.values())


def show(outcome: Outcome, written: str) -> None:
    """Print what verify found. `written`: what became of the receipt."""
    request, checks = outcome.request, outcome.checks
    name = request.spec.name
    tables = [("kernel", [c for c in checks if c.kind in ("case", "property")])]
    tables.append(("layer in float32", [c for c in checks if c.kind == "layer"]))
    for title, group in tables:
        worst = worst_rows(group)
        if worst:
            rows = [_cells(row, check) for row, check in sorted(worst, key=lambda w: -w[0].ratio)]
            hidden = [r for r in rows[LISTED:] if float(r[1]) <= 1] if title != "kernel" else []
            print_table(COLUMNS, [r for r in rows if r not in hidden], f"{name} {title}, {outcome.target}", RIGHT)
            if hidden:
                out().print(
                    f"and {len(hidden)} more tensors below {max(float(r[1]) for r in hidden):.3g}", markup=False
                )
            out().print()
    flipped = [c for c in checks if c.id.startswith("option ") and c.ok]
    if flipped:
        count = "option" if len(flipped) == 1 else "options"
        out().print(f"{len(flipped)} {count} flipped, each followed: {'; '.join(map(_flip, flipped))}", markup=False)
    for check in checks:
        if check.kind == "sanitize" and check.ok:
            out().print(f"{check.id}: {check.message}", markup=False, soft_wrap=True)
    for check in checks:
        if check.kind == "layer" and check.id.startswith("layer ") and check.ok and check.message:
            out().print(f"{check.id}: {check.message}", markup=False, soft_wrap=True)
    for check in checks:
        if check.kind == "case" and check.not_run:
            out().print(f"{check.id}: {check.message}", markup=False, soft_wrap=True)
    if outcome.drawn:
        text = "; ".join(outcome.drawn)
        out().print(f"Shapes drawn from seed {request.seed}: {text}", markup=False, soft_wrap=True)
    if request.complete and (text := declared(request.spec)):
        out().print(f"Declared by binding.py: {text}", markup=False, soft_wrap=True)
    failed = [c for c in checks if not c.ok]
    for check in failed[:LISTED]:
        out().print(f"FAILED {check.id}: {_why(check)}\n  {command(request, check)}", markup=False)
    if len(failed) > LISTED:
        out().print(f"and {len(failed) - LISTED} more failed", markup=False)
    if (small := outcome.smallest) and small.id not in [c.id for c in failed[:LISTED]]:
        text = f"The smallest shape that Hypothesis shrinks a drawn one to: FAILED {small.id}: {_why(small)}"
        out().print(f"{text}\n  {command(request, small)}", markup=False)
    out().print(summary(outcome) + (f" {written}" if written else ""), markup=False, soft_wrap=True)


def _flip(check: Check) -> str:
    """Return an option's check in a few words; only what is out of the ordinary is said."""
    text = check.message.replace("changes sizes and output", "").replace("changes the output", "").strip()
    return check.id.removeprefix("option ") + (f" ({text})" if text else "")


def _cells(row: Row, check: Check) -> list[str]:
    spark = row.spark if len(row.spark) <= MOST else row.spark[: MOST // 2 - 1] + "…" + row.spark[-MOST // 2 :]
    start = row.origin or ("" if row.start is None else f"t {row.start}")
    return [row.tensor, f"{row.ratio:.3g}", f"{row.error:.2g}", check.id, row.group, row.index, start, spark]


def _why(check: Check) -> str:
    if check.message:
        return check.message
    row = check.worst
    place = f", first bad element at {row.index}" if row.index else ""
    start = "" if row.start is None else f", in time: {row.origin or f'from t {row.start} on'}"
    over = [r.tensor for r in check.rows if not r.ok]
    also = f" (also {', '.join(t for t in over if t != row.tensor)})" if len(over) > 1 else ""
    return f"{row.tensor} is {row.ratio:.3g} times over its limit in {row.group}{place}{start}{also}".rstrip()


def summary(outcome: Outcome) -> str:
    """Return the last line: counts, worst figure, time."""
    request, checks = outcome.request, outcome.checks
    failed, ran = sum(not c.ok for c in checks), [c for c in checks if not c.not_run]
    rows = [(row.ratio, row.tensor, c.id) for c in checks for row in c.rows]
    part = "" if request.complete else " (a part)"
    quick = " quick" if request.quick else " thorough" if request.thorough else ""
    text = f"{request.spec.name} on {outcome.target}:{quick} {len(ran) - failed} of {len(ran)} checks passed{part}"
    if skipped := len(checks) - len(ran):
        text += f", {skipped} not run"
    if rows:
        ratio, tensor, id = max(rows)
        text += f"; worst {ratio:.3g} of the limit ({tensor}, {id})"
    if old := request.kept:
        kept = "the other" if request.sized else "the kernel's"
        text += f"; {kept} checks are kept, of {old.kernel_checked or old.created}"
    return f"{text}; {outcome.seconds:.1f} s, seed {request.seed}."


def as_json(outcome: Outcome, path: Path | None) -> dict:
    """Return plain data for `--json`; what is not finite becomes null."""
    checks = [msgspec.to_builtins(c) | {"command": command(outcome.request, c)} for c in outcome.checks]
    for check in checks:
        for row in check["rows"]:
            row |= {key: None for key in ("ratio", "error") if row[key] in (float("inf"), float("nan"))}
    return {
        "model": outcome.request.spec.name,
        "target": outcome.target,
        "ok": outcome.ok,
        "quick": outcome.request.quick,
        "thorough": outcome.request.thorough,
        "complete": outcome.request.complete,
        "seed": outcome.request.seed,
        "declared": declared(outcome.request.spec),
        "drawn": outcome.drawn,
        "smallest": outcome.smallest.id if outcome.smallest else None,
        "seconds": round(outcome.seconds, 2),
        "receipt": str(path) if path else None,
        "checks": checks,
    }
