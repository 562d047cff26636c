"""What `--prove` prints: scores per shape, what survived, what is equivalent, and the verdict."""

from elmanctl.console import out, print_table
from elmanctl.verify.policy import SCORE
from elmanctl.verify.prove.findings import EQUIVALENT, Findings
from elmanctl.verify.record import ShapeScore

LISTED = 12
RULE = f"all truth mutants and {SCORE:.0%} of kernel mutants must die"
COLUMNS = ("case", "truth mutants", "kernel mutants", "score")


def rows(found: Findings) -> list[list[str]]:
    """Return, per fp32 case, the share of the mutants whose results differ there that it rejects."""
    return [
        [s.case, f"{s.truth_killed} of {s.truth_seen}", f"{s.killed} of {s.seen}", f"{_share(s):.1%}"]
        for s in found.shapes()
    ]


def _share(s: ShapeScore) -> float:
    return (s.truth_killed + s.killed) / max(1, s.truth_seen + s.seen)


def show(name: str, found: Findings) -> None:
    """Print the proof of one configuration."""
    title = f"{name}: mutants that each shape rejects, of those that change a result there"
    print_table(COLUMNS, rows(found), title, COLUMNS[1:])
    out().print()
    passed = [f"{mutant} [{s.case}]" for s in found.shapes() for mutant in s.missed]
    for label, lines in (
        (
            "SURVIVED",
            [*found.surviving_truths(), *(f"{f.edit.text()} [differs in {f.different}]" for f in found.of("survived"))],
        ),
        ("NO DIVISION, wrong", [f"{f.edit.text()} [{', '.join(f.by)}]" for f in found.false_divisions()]),
        ("division of the work, left out", found.left_out()),
        ("passed by one shape", passed),
        ("equivalent", [f"{f.edit.text()} [{f.outcome}]" for f in found.of(*EQUIVALENT)]),
        ("not applicable", sorted({f"{fault}: {why}" for (fault, _), why in whole(found).items()})),
    ):
        shown = lines if label == "SURVIVED" else lines[:LISTED]
        for line in shown:
            out().print(f"{label}: {line}", markup=False, soft_wrap=True)
        if len(lines) > len(shown):
            out().print(f"and {len(lines) - len(shown)} more {label}; --json lists them", markup=False)
    out().print(summary(name, found), markup=False, soft_wrap=True)


def whole(found: Findings) -> dict[tuple[str, str], str]:
    """Return the faults that do not apply in full, with why."""
    return {key: why for key, why in found.not_applicable().items() if key[1] == "full"}


def summary(name: str, found: Findings) -> str:
    """Return the last line."""
    record = found.record()
    wrong = len(found.false_divisions())
    lacking = f"{wrong} edits of a marked division give wrong results" if wrong else ""
    verdict = "proven" if found.ok else f"NOT proven ({lacking or RULE})"
    return (
        f"{name}: {verdict}; truth mutants {record.truth_killed} of {record.truth_mutants} killed, "
        f"kernel mutants {record.killed} of {record.mutants} ({record.score:.1%}), "
        f"{record.everywhere} of them by every shape that sees them, {record.equivalent} equivalent, "
        f"{len(found.of('not compiled'))} did not compile, of {found.edits} edits; {found.seconds:.0f} s, seed {found.seed}."
    )


def as_json(found: Findings) -> dict:
    """Return plain data for `--json`."""
    import msgspec

    return msgspec.to_builtins(found.record()) | {
        "ok": found.ok,
        "edits": found.edits,
        "not_applicable": [f"{fault} ({extent}): {why}" for (fault, extent), why in found.not_applicable().items()],
        "killed_by": {f.edit.text(): f.by for f in found.of("killed")},
    }
