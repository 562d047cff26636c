"""What was planted in one configuration and what became of it: scores, survivors, the verdict, and what a receipt keeps."""

from collections import Counter
from dataclasses import dataclass, field

from elmanctl.verify.policy import SCORE
from elmanctl.verify.prove.extents import EXTENTS
from elmanctl.verify.prove.kernel_mutants import Fate
from elmanctl.verify.prove.truth_mutants import Verdict
from elmanctl.verify.record import Proof, ShapeScore

COUNTED = ("killed", "survived")
EQUIVALENT = ("equivalent", "same code")


@dataclass
class Findings:
    """Verdicts by case, fates in the order of the sample, and those of edits in divisions of the work, which are not counted.

    Args:
        edits: from which the sample was drawn.
        divisions: edits left out, by file and function.
        divided: what became of a sample of those.
    """

    truth: dict[str, list[Verdict]] = field(default_factory=dict)
    fates: list[Fate] = field(default_factory=list)
    edits: int = 0
    divisions: Counter[str] = field(default_factory=Counter)
    divided: list[Fate] = field(default_factory=list)
    seed: int = 0
    seconds: float = 0.0

    def truth_mutants(self) -> dict[tuple[str, str], list[tuple[str, Verdict]]]:
        """Return (fault, extent) -> its verdicts by case, of those that apply in some case."""
        found: dict[tuple[str, str], list[tuple[str, Verdict]]] = {}
        for case, listed in self.truth.items():
            for v in listed:
                if v.ratio is not None:
                    found.setdefault((v.fault, v.extent), []).append((case, v))
        return found

    def not_applicable(self) -> dict[tuple[str, str], str]:
        """Return (fault, extent) -> why, of those that apply in no case."""
        applies = self.truth_mutants()
        every = [v for listed in self.truth.values() for v in listed]
        return {(v.fault, v.extent): v.reason for v in every if (v.fault, v.extent) not in applies}

    def surviving_truths(self) -> list[str]:
        """Return the truth mutants that no case rejects, and those in full that some case sees and lets pass."""
        survivors = []
        for (fault, extent), found in self.truth_mutants().items():
            passed = [case for case, v in found if v.seen and not v.killed]
            if not any(v.killed for _, v in found):
                survivors.append(f"{fault} ({extent})")
            elif extent == EXTENTS[0] and passed:
                survivors.append(f"{fault} ({extent}) on {', '.join(passed)}")
        return survivors

    def shapes(self) -> list[ShapeScore]:
        """Return what each fp32 case alone showed."""
        scores, counted = [], self.of(*COUNTED)
        for case, listed in self.truth.items():
            seen = [v for v in listed if v.seen]
            missed = [f"{v.fault} ({v.extent})" for v in seen if not v.killed]
            blind = [f.edit.text() for f in counted if case in f.missed]
            killed = sum(case in f.by for f in counted)
            scores.append(
                ShapeScore(
                    case=case,
                    truth_seen=len(seen),
                    truth_killed=sum(v.killed for v in seen),
                    seen=killed + len(blind),
                    killed=killed,
                    missed=(*missed, *blind),
                )
            )
        return scores

    def of(self, *outcomes: str) -> list[Fate]:
        return [f for f in self.fates if f.outcome in outcomes]

    def false_divisions(self) -> list[Fate]:
        """Return edits of what is marked as a division that give wrong results: there, not every answer is right."""
        return [f for f in self.divided if f.outcome == "killed" and not f.refused]

    def left_out(self) -> list[str]:
        """Return, by function, the edits of divisions that were left out, and what trying some of them showed."""
        tried = Counter(_place(f.edit) for f in self.divided)
        return [f"{place}: {count} edits, {tried[place]} tried" for place, count in sorted(self.divisions.items())]

    @property
    def score(self) -> float:
        counted = len(self.of(*COUNTED))
        return len(self.of("killed")) / counted if counted else 0.0

    @property
    def ok(self) -> bool:
        truths = bool(self.truth_mutants()) and not self.surviving_truths()
        return truths and self.score >= SCORE and not self.false_divisions()

    def record(self) -> Proof:
        """Return what a receipt keeps."""
        mutants, survivors, equal = self.truth_mutants(), self.surviving_truths(), self.of(*EQUIVALENT)
        return Proof(
            truth_mutants=len(mutants),
            truth_killed=len(mutants) - len(survivors),
            truth_survivors=tuple(survivors),
            not_applicable=len(self.not_applicable()),
            mutants=len(self.of(*COUNTED)),
            killed=len(self.of("killed")),
            everywhere=sum(f.everywhere for f in self.fates),
            survivors=tuple(f.edit.text() for f in self.of("survived")),
            shapes=tuple(self.shapes()),
            equivalent=len(equal),
            equivalents=tuple(f"{f.edit.text()} ({f.outcome})" for f in equal),
            divisions=tuple(self.left_out()),
            score=round(self.score, 4),
            seed=self.seed,
            seconds=round(self.seconds, 1),
        )


def divisions(candidates) -> Counter[str]:
    """Return how many of some edits lie in each division of the work, by file and function."""
    return Counter(_place(e) for e in candidates if e.division)


def _place(edit) -> str:
    return f"{edit.file.name} {edit.division}"
