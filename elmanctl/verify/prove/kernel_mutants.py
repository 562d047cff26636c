"""Kernel mutants: a seeded sample of edits, compiled and run, each rejected, surviving, or equal bit for bit."""

import itertools
import random
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from elmanctl.verify.prove.compiling import compiled
from elmanctl.verify.prove.edits import Edit
from elmanctl.verify.prove.trial import Bench, Report, bits, trial

SLACK, FLOOR = 10.0, 5.0  # a mutant may take this many times what the kernel takes, and at least so many seconds


@dataclass(frozen=True)
class Fate:
    """What became of one edit.

    Args:
        outcome: `killed`, `survived`, `equivalent` (results bit-equal over all thorough cases), `same code` (the compiler gives the same object
            code: equivalent too), or `not compiled`.
        by: case -> what rejected it there.
        missed: cases that it passed although its results differ from the kernel's there.
        different: for a survivor, a case in which its results differ from the kernel's.
        refused: killed by nothing but launches that no device would take.
    """

    edit: Edit
    outcome: str
    by: dict[str, str]
    missed: tuple[str, ...] = ()
    different: str = ""
    refused: bool = False

    @property
    def everywhere(self) -> bool:
        """Whether every case that sees it rejects it."""
        return self.outcome == "killed" and not self.missed


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
    """The unedited kernel under the same flags, by dtype: hash of its object code, report, and hashes over the thorough cases."""

    code: dict[str, str]
    report: dict[str, Report]
    bits: dict[str, dict[str, str]]
    seconds: dict[str, float]  # of processor time that the thorough cases take


def libraries_of(
    bench: Bench, edit: Edit | None, folder: Path, flags: tuple[str, ...] = ()
) -> tuple[list[Path], str] | None:
    """Compile a kernel with an edit (None: as it is) for all of a bench's builds; return the libraries and a hash of their object code.

    None where one does not compile.
    """
    paths, codes = [], []
    for n, constants in enumerate(bench.builds):
        work = folder / str(n)
        work.mkdir()
        if (made := compiled(bench.kernel, constants, bench.dtype, edit, work, flags)) is None:
            return None
        paths.append(made[0])
        codes.append(made[1])
    return paths, " ".join(codes)


def original(benches: list[Bench]) -> Original:
    """Compile and run the kernel as it is.

    Raises:
        ValueError: where it does not pass its own cases.
    """
    codes, reports, thorough, seconds = {}, {}, {}, {}
    for bench in benches:
        with tempfile.TemporaryDirectory(prefix="elmanctl-prove-") as folder:
            libraries, codes[bench.dtype] = libraries_of(bench, None, Path(folder))
            report = reports[bench.dtype] = trial(bench, libraries, 600.0)
            if report.killed:
                raise ValueError(f"the kernel itself fails: {report.rejected}")
            thorough[bench.dtype], seconds[bench.dtype] = bits(bench, libraries, 600.0)
    return Original(codes, reports, thorough, seconds)


def fate(benches: list[Bench], known: Original, edit: Edit) -> Fate:
    """Compile and run one edit: in the first dtype, and in the others where that does not reject it.

    One that passes all and changes nothing must also give the same bits over the thorough cases, or it is a survivor.
    """
    missed, identical, different = [], True, ""
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
            missed += [i for i, d in report.results.items() if d != base.results[i]]
            if report.killed:
                return Fate(edit, "killed", report.rejected, tuple(missed), refused=report.refused)
            if not missed:
                same, limit = known.bits[bench.dtype], max(FLOOR, SLACK * known.seconds[bench.dtype])
                found, _ = bits(bench, libraries, limit, same)
                different = different or next((i for i in bench.thorough if found.get(i) != same[i]), "")
    different = missed[0] if missed else different
    outcome = "same code" if identical else "survived" if different else "equivalent"
    return Fate(edit, outcome, {}, tuple(missed), different)
