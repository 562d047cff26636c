"""Kernel mutants: a seeded sample of edits, compiled and run, each rejected, surviving, or equal bit for bit."""

import dataclasses
import itertools
import random
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from elmanctl.verify.prove.compiling import compiled
from elmanctl.verify.prove.edits import Edit
from elmanctl.verify.prove.trial import Bench, Report, bits, trial

SLACK, FLOOR = 10.0, 3.0  # a mutant may take this many times what the kernel takes, and at least so many seconds


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
    """The unedited kernel under the same flags, by dtype: its report, and the same over the thorough cases.

    `code`, `bits` and `seconds` are those of the bench and of its further builds: hash of the object code, hashes of the results, and
    processor time.
    """

    report: dict[str, Report]
    code: dict[str, list[str]]
    bits: dict[str, list[dict[str, str]]]
    seconds: dict[str, list[float]]


def parts_of(bench: Bench) -> list[Bench]:
    """Return a bench, and that of its further builds."""
    return [bench, bench.further] if bench.further else [bench]


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
    known = Original({}, {b.dtype: [] for b in benches}, {b.dtype: [] for b in benches}, {b.dtype: [] for b in benches})
    for bench, part in ((b, p) for b in benches for p in parts_of(b)):
        with tempfile.TemporaryDirectory(prefix="elmanctl-prove-") as folder:
            libraries, code = libraries_of(part, None, Path(folder))
            if part is bench:
                report = known.report[bench.dtype] = trial(bench, libraries, 600.0)
                if report.killed:
                    raise ValueError(f"the kernel itself fails: {report.rejected}")
            results, seconds = bits(part, libraries, 600.0)
            known.code[bench.dtype].append(code)
            known.bits[bench.dtype].append(results)
            known.seconds[bench.dtype].append(seconds)
    return known


def joined(parts: list[Original]) -> Original:
    """Return what is known of the kernel in several dtypes as one."""
    whole = Original({}, {}, {}, {})
    for part in parts:
        for field in dataclasses.fields(Original):
            getattr(whole, field.name).update(getattr(part, field.name))
    return whole


def fate(benches: list[Bench], known: Original, edit: Edit) -> Fate:
    """Compile and run one edit: in the first dtype, and in the others where that does not reject it.

    One that passes all and changes nothing must also give the same bits over the other thorough cases, or it is a survivor.
    """
    missed, identical, different = [], True, ""
    for bench, number, part in ((b, n, p) for b in benches for n, p in enumerate(parts_of(b))):
        if number and (missed or different):
            continue  # it is no equivalent one, whatever further builds do
        with tempfile.TemporaryDirectory(prefix="elmanctl-prove-") as folder:
            made = libraries_of(part, edit, Path(folder))
            if made is None and not number:
                return Fate(edit, "not compiled", {})
            if made is not None and made[1] == known.code[bench.dtype][number]:
                continue
            identical = False
            if not number:
                base = known.report[bench.dtype]
                report = trial(bench, made[0], max(FLOOR, SLACK * base.seconds))
                missed += [i for i, d in report.results.items() if d != base.results[i]]
                if report.killed:
                    return Fate(edit, "killed", report.rejected, tuple(missed), refused=report.refused)
            if not missed and not different:
                same, limit = known.bits[bench.dtype][number], max(FLOOR, SLACK * known.seconds[bench.dtype][number])
                found = {} if made is None else bits(part, made[0], limit, same)[0]
                different = next((i for i in part.thorough if found.get(i) != same[i]), "")
    different = missed[0] if missed else different
    outcome = "same code" if identical else "survived" if different else "equivalent"
    return Fate(edit, outcome, {}, tuple(missed), different)
