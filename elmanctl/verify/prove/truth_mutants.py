"""Truth mutants of one case: every fault at every extent, judged by the rule."""

from collections.abc import Iterator
from dataclasses import dataclass

from elmanctl.verify.cases import Case, chunk
from elmanctl.verify.prove import terms
from elmanctl.verify.prove.extents import EXTENTS, spread
from elmanctl.verify.prove.faults import Scene, Wrong, every
from elmanctl.verify.run import Library, same_bits
from elmanctl.verify.truth import Truth, differentiate, draw, establish

UNCHANGED = "no result changes"
FORMER = 1  # added to the seed: the call before this one


@dataclass(frozen=True)
class Verdict:
    """What became of one mutant on one case.

    Args:
        fault, extent: what it is.
        ratio: worst error over limit; above 1 it is rejected. None where it does not apply.
        reason: why it does not apply.
        tensor: where the worst ratio is.
    """

    fault: str
    extent: str
    ratio: float | None
    reason: str = ""
    tensor: str = ""

    @property
    def seen(self) -> bool:
        """Whether it applies here and changes a result."""
        return self.ratio is not None and self.tensor != UNCHANGED

    @property
    def killed(self) -> bool:
        return self.ratio is not None and self.ratio > 1


def verdicts(
    library: Library, kernel, reference, constants, case: Case, seed: int, truth: Truth | None = None
) -> list[Verdict]:
    """Run every truth mutant on one case.

    Args:
        truth: of the case, where it is established already.
    Raises:
        ValueError: where the library itself is not right: nothing can be shown with it.
    """
    truth = truth or establish(draw(kernel, reference, constants, case, seed))
    scene = Scene(
        library, truth.problem, draw(kernel, reference, constants, case, seed + FORMER), chunk(dict(constants))
    )
    if bad := [tensor for tensor, ratio in truth.ratios(scene.right).items() if ratio > 1]:
        raise ValueError(f"{case.id}: the kernel is not right in {', '.join(bad)}; a proof needs one that is.")
    found = []
    for fault, wrong in every_fault(scene, reference):
        if isinstance(wrong, str):
            found += [Verdict(fault, extent, None, wrong) for extent in EXTENTS]
            continue
        reached = dict.fromkeys(EXTENTS, "no tensor that it changes has such a part")
        changed = {n: t for n, t in wrong.items() if not same_bits(t, scene.right[n])}
        for extent, damaged in spread(kernel, scene.right, changed or wrong, truth.problem.sizes, scene.chunk):
            reached.pop(extent)
            found.append(_judged(truth, scene, fault, extent, damaged))
        found += [Verdict(fault, extent, None, reason) for extent, reason in reached.items()]
    return found


def every_fault(scene: Scene, reference) -> Iterator[tuple[str, Wrong]]:
    """Yield the faults of a declaration, then those of the reference's terms."""
    yield from every(scene)
    exact = differentiate(scene.problem)
    for term in terms.terms(scene.problem, reference.__file__):
        yield (
            term.name,
            terms.without(scene.problem, reference.__file__, term, exact, scene.right) or "changes nothing here",
        )


def _judged(truth: Truth, scene: Scene, fault: str, extent: str, damaged: dict) -> Verdict:
    changed = {n: t for n, t in damaged.items() if n in truth.values and not same_bits(t, scene.right[n])}
    if not changed:
        return Verdict(fault, extent, 0.0, tensor=UNCHANGED)
    tensor, ratio = max(truth.ratios(changed, changed).items(), key=lambda found: found[1])
    return Verdict(fault, extent, ratio, tensor=tensor)
