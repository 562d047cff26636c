"""Cases that nobody chose: shapes that Hypothesis draws, and inputs of zeros and of large numbers, which a reference's own draws may lack.

* Every `--seed` draws other shapes, and the same seed the same ones; each is an ordinary case, which `--case` repeats alone.
  The first of each dtype is the smallest there is: one row, one step. Where one fails, `smallest` shrinks it.
* `zero-input`: every input over time is 0 (a fill-in, a masked step: gates at one half, keys without length).
  `zero-state`: every first state is 0, from which a backward pass must still find a gradient.
  `large-input`: every input over time is 64 times as large, so that exp(2 x) overflows and gates are 0 or 1 exactly.

Torch is not imported, and Hypothesis only where it draws: reading a receipt needs neither.
"""

import contextlib
from collections.abc import Callable

from elmanctl.kernel import Kernel
from elmanctl.rules import Multiple
from elmanctl.variant import Spec
from elmanctl.verify import cases
from elmanctl.verify.cases import Case

INPUT, STATE, LARGE = "zero-input", "zero-state", "large-input"
STRUCTURED = (INPUT, STATE, LARGE)
SCALE, MOST = 64.0, 1e18  # of large inputs; what an unbounded recurrence may make of them before fp32 itself overflows
COUNT, MANY = 3, 10  # shapes of each dtype, by default and where no time is too long
ROWS, OTHERS, WIDTH = 5, 9, 128  # largest B, number such as H, and D
LONGEST = 99  # T: from 100 on Hypothesis would mix in constants that it finds in the sources, and a seed mean other shapes after an edit


class _Failed(Exception):
    """A drawn case failed; Hypothesis looks for a smaller one."""


def shapes(
    spec: Spec, kernel: Kernel, constants: dict[str, int], dtypes, draws, seed: int, count: int = COUNT
) -> list[Case]:
    """Draw `count` cases of each dtype: B, T up to past the third chunk, D by the rules, other dims, and the kind of draw.

    What binding.py's `verify_sizes` gives stays.
    """
    found: list[Case] = []
    for dtype in dtypes:
        _explore(spec, kernel, constants, dtype, draws, seed, count, found.append)
    return found


def smallest(
    spec: Spec, kernel: Kernel, constants: dict[str, int], dtype: str, draws, seed: int, count: int,
    passes: Callable[[Case], bool],
) -> Case | None:  # fmt: skip
    """Draw the cases of a dtype again, and return what Hypothesis shrinks the first that does not pass to; None where all do."""
    failing: list[Case] = []

    def check(case: Case) -> None:
        if not passes(case):
            failing.append(case)
            raise _Failed(case.id)

    with contextlib.suppress(_Failed):
        _explore(spec, kernel, constants, dtype, draws, seed, count, check, shrink=True)
    return failing[-1] if failing else None  # it runs the smallest again at the end


def _explore(
    spec: Spec, kernel: Kernel, constants: dict[str, int], dtype: str, draws, seed: int, count: int,
    check: Callable[[Case], None], shrink: bool = False,
) -> None:  # fmt: skip
    """Let Hypothesis call `check` with `count` cases, the same for the same seed, without a database of former failures."""
    import hypothesis
    from hypothesis import HealthCheck, Phase, Verbosity, configuration

    from elmanctl.toolchain import cache_folder

    settings = hypothesis.settings(
        max_examples=count,
        phases=(Phase.generate, Phase.shrink) if shrink else (Phase.generate,),
        database=None,
        deadline=None,
        derandomize=False,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        verbosity=Verbosity.quiet,
    )
    run = hypothesis.given(_strategy(spec, kernel, constants, dtype, draws))(lambda case: check(case))
    configuration.set_hypothesis_home_dir(cache_folder() / "hypothesis")  # not a folder where verify happens to run
    try:
        hypothesis.seed(f"{seed} {dtype} {spec.name}")(settings(run))()
    finally:
        configuration.set_hypothesis_home_dir(None)


def _strategy(spec: Spec, kernel: Kernel, constants: dict[str, int], dtype: str, draws):
    """Return the strategy of one dtype's cases; smaller is simpler."""
    from hypothesis import strategies as st

    given = getattr(spec.variant.module("binding"), "verify_sizes", None)
    own = dict(given(spec.config)) if given else {}
    steps = [r.step for r in spec.variant.rules.of("dim") if isinstance(r, Multiple) and not r.method]
    step = max(steps, default=1)
    sizes = {name: st.just(own[name]) if name in own else st.integers(1, OTHERS) for name in kernel.dims}
    if "D" not in own:
        sizes["D"] = st.integers(1, max(1, WIDTH // step)).map(lambda n: step * n)
    sizes |= {"B": st.integers(1, ROWS), "T": st.integers(1, min(LONGEST, 3 * cases.chunk(constants) + 1))}
    return st.builds(
        lambda draw, **chosen: Case(dtype, tuple(chosen.items()), draw),
        st.sampled_from(tuple(draws)),
        **{name: sizes[name] for name in kernel.dims},
    )


def states(kernel: Kernel) -> dict[str, str]:
    """Return first state -> last state, paired by name: `s0` and `s_last`."""
    return {n: f"{n[:-1]}_last" for n in kernel.inputs if n.endswith("0") and f"{n[:-1]}_last" in kernel.outputs}


def structured(kernel: Kernel, other: dict[str, int], dtypes, T: int) -> list[Case]:
    """Return a case of each structured kind that a kernel has tensors for, in each dtype."""
    kinds = [kind for kind in STRUCTURED if kind != STATE or states(kernel)]
    return [cases.make(kernel, other, dtype, T, kind) for kind in kinds for dtype in dtypes]


def overgrown(case: Case, most: float) -> bool:
    """Return whether a recurrence without a bound has made so much (`most`) of large inputs that nothing is to be judged there."""
    return case.draw == LARGE and most > MOST


def inputs(kernel: Kernel, reference, kind: str, shapes: dict, constants: dict[str, int], randn) -> dict:
    """Return what the reference draws for a kind; for a structured kind its first draw, set to zero or scaled."""
    if kind not in STRUCTURED:
        return reference.draw(kind, shapes, constants, randn)
    tensors = dict(reference.draw(reference.DRAWS[0], shapes, constants, randn))
    for spec in kernel.input_specs:
        value = tensors.get(spec.name)
        if value is not None and (spec.name in states(kernel) if kind == STATE else "T" in spec.dims):
            tensors[spec.name] = (SCALE if kind == LARGE else 0) * value
    return tensors
