"""Kernel mutants: a seeded sample of edits, compiled and run, each rejected, surviving, or equal bit for bit."""

import itertools
import random
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from elmanctl.verify.prove.compiling import compiled
from elmanctl.verify.prove.edits import Edit
from elmanctl.verify.prove.trial import Bench, Report, trial

SLACK, FLOOR = 10.0, 5.0  # a mutant may take this many times what the kernel takes, and at least so many seconds


@dataclass(frozen=True)
class Fate:
    """What became of one edit.

    Args:
        outcome: `killed`, `survived`, `equivalent` (results bit-equal over all cases), `same code` (the compiler gives the same object
            code: equivalent too), or `not compiled`.
        by: case -> what rejected it there.
        passed: cases that it passed.
        different: for a survivor, a case in which its results differ from the kernel's.
    """

    edit: Edit
    outcome: str
    by: dict[str, str]
    passed: tuple[str, ...] = ()
    different: str = ""


def ordered(candidates: list[Edit], seed: int) -> Iterator[Edit]:
    """Yield edits in a seeded order that goes round the operators and files, so that a small sample has all of them."""
    generator, groups = random.Random(seed), {}
    for edit in candidates:
        groups.setdefault((edit.operator, edit.file.name), []).append(edit)
    for group in groups.values():
        generator.shuffle(group)
    keys = sorted(groups)
    generator.shuffle(keys)
    for row in itertools.zip_longest(*(groups[k] for k in keys)):
        yield from (e for e in row if e is not None)


@dataclass(frozen=True)
class Original:
    """The unedited kernel under the same flags: hash of its object code, and its report, by dtype."""

    code: dict[str, str]
    report: dict[str, Report]


def libraries_of(bench: Bench, edit: Edit | None, folder: Path) -> tuple[list[Path], str] | None:
    """Compile a kernel with an edit (None: as it is) for all of a bench's builds; return the libraries and a hash of their object code.

    None where one does not compile.
    """
    paths, codes = [], []
    for n, constants in enumerate(bench.builds):
        work = folder / str(n)
        work.mkdir()
        if (made := compiled(bench.kernel, constants, bench.dtype, edit, work)) is None:
            return None
        paths.append(made[0])
        codes.append(made[1])
    return paths, " ".join(codes)


def original(benches: list[Bench]) -> Original:
    """Compile and run the kernel as it is.

    Raises:
        ValueError: where it does not pass its own cases.
    """
    codes, reports = {}, {}
    for bench in benches:
        with tempfile.TemporaryDirectory(prefix="elmanctl-prove-") as folder:
            libraries, codes[bench.dtype] = libraries_of(bench, None, Path(folder))
            report = reports[bench.dtype] = trial(bench, libraries, 600.0)
            if report.killed:
                raise ValueError(f"the kernel itself fails: {report.rejected}")
    return Original(codes, reports)


def fate(benches: list[Bench], known: Original, edit: Edit) -> Fate:
    """Compile and run one edit: in the first dtype, and in the others where that does not reject it."""
    passed, identical, different = [], True, ""
    for bench in benches:
        with tempfile.TemporaryDirectory(prefix="elmanctl-prove-") as folder:
            made = libraries_of(bench, edit, Path(folder))
            if made is None:
                return Fate(edit, "not compiled", {})
            libraries, code = made
            if code == known.code[bench.dtype]:
                continue
            base, identical = known.report[bench.dtype], False
            report = trial(bench, libraries, max(FLOOR, SLACK * base.seconds))
            passed += report.passed
            if report.killed:
                return Fate(edit, "killed", report.rejected, tuple(passed))
            different = different or next((i for i, d in report.results.items() if d != base.results[i]), "")
    if identical:
        return Fate(edit, "same code", {}, tuple(passed))
    return Fate(edit, "survived" if different else "equivalent", {}, tuple(passed), different)
