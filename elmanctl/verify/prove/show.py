"""What `--prove` prints: scores per shape, what survived, what is equivalent, and the verdict."""

from elmanctl.console import out, print_table
from elmanctl.verify.prove.proof import COUNTED, EQUIVALENT, SCORE, Findings

LISTED = 12


def shapes(found: Findings) -> list[list[str]]:
    """Return, per fp32 case: truth mutants killed of those that apply, kernel mutants killed of those that came to it.

    The quick cases, which are first, see every kernel mutant until it crashes or hangs; the others those that are left.
    """
    rows = []
    for case, listed in found.truth.items():
        applies = [v for v in listed if v.ratio is not None]
        killed = sum(case in f.by for f in found.fates)
        ran = killed + sum(case in f.passed for f in found.of(*COUNTED))
        rows.append([case, f"{sum(v.killed for v in applies)} of {len(applies)}", f"{killed} of {ran}" if ran else ""])
    return rows


def show(name: str, found: Findings) -> None:
    """Print the proof of one configuration."""
    title = f"{name}: mutants that each shape rejects, of those that come to it"
    print_table(["case", "truth mutants", "kernel mutants"], shapes(found), title, ("truth mutants", "kernel mutants"))
    out().print()
    for label, lines in (
        (
            "SURVIVED",
            [*found.surviving_truths(), *(f"{f.edit.text()} [differs in {f.different}]" for f in found.of("survived"))],
        ),
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
    verdict = "proven" if found.ok else f"NOT proven (all truth mutants and {SCORE:.0%} of kernel mutants must die)"
    return (
        f"{name}: {verdict}; truth mutants {record.truth_killed} of {record.truth_mutants} killed, "
        f"kernel mutants {record.killed} of {record.mutants} ({record.score:.1%}), {record.equivalent} equivalent, "
        f"{len(found.of('not compiled'))} did not compile, of {found.edits} edits; {found.seconds:.0f} s, seed {found.seed}."
    )


def as_json(found: Findings) -> dict:
    """Return plain data for `--json`."""
    import msgspec

    keys = ("case", "truth mutants", "kernel mutants")
    return msgspec.to_builtins(found.record()) | {
        "ok": found.ok,
        "edits": found.edits,
        "shapes": [dict(zip(keys, row, strict=True)) for row in shapes(found)],
        "not_applicable": [f"{fault} ({extent}): {why}" for (fault, extent), why in found.not_applicable().items()],
        "killed_by": {f.edit.text(): f.by for f in found.of("killed")},
    }
