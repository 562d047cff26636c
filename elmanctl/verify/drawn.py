"""Cases that nobody chose: shapes drawn from the seed, and inputs that hold a zero where every reference's own draws may not.

* Every `--seed` draws other shapes, and the same seed the same ones; each is an ordinary case, which `--case` repeats alone.
* `zero-input`: every input over time is 0 (a fill-in, a masked step: gates at one half, keys without length).
  `zero-state`: every first state is 0, from which a backward pass must still find a gradient.

Torch is not imported.
"""

import random

from elmanctl.kernel import Kernel
from elmanctl.rules import Multiple
from elmanctl.variant import Spec
from elmanctl.verify import cases
from elmanctl.verify.cases import Case

INPUT, STATE = "zero-input", "zero-state"
STRUCTURED = (INPUT, STATE)
COUNT, MANY = 2, 10  # shapes of each dtype, by default and where no time is too long
ROWS, OTHERS, WIDTH = 5, 9, 128  # largest B, number such as H, and D


def shapes(
    spec: Spec, kernel: Kernel, constants: dict[str, int], dtypes, draws, seed: int, count: int = COUNT
) -> list[Case]:
    """Draw `count` cases of each dtype: B, T up to past the third chunk, D by the rules, other dims, and the kind of draw.

    What binding.py's `verify_sizes` gives stays.
    """
    given = getattr(spec.variant.module("binding"), "verify_sizes", None)
    own = dict(given(spec.config)) if given else {}
    steps = [r.step for r in spec.variant.rules.of("dim") if isinstance(r, Multiple) and not r.method]
    step, longest = max(steps, default=1), 3 * cases.chunk(constants) + 1
    found = []
    for dtype in dtypes:
        rng = random.Random(f"{seed} {dtype} {spec.name}")
        for _ in range(count):
            sizes = {}
            for name in kernel.dims:
                if name in ("B", "T"):
                    sizes[name] = rng.randint(1, ROWS if name == "B" else longest)
                elif name == "D":
                    sizes[name] = step * rng.randint(1, max(1, WIDTH // step))
                else:
                    sizes[name] = rng.randint(1, OTHERS)
            found.append(
                Case(dtype, tuple((sizes | own | {"T": sizes["T"], "B": sizes["B"]}).items()), rng.choice(draws))
            )
    return found


def states(kernel: Kernel) -> dict[str, str]:
    """Return first state -> last state, paired by name: `s0` and `s_last`."""
    return {n: f"{n[:-1]}_last" for n in kernel.inputs if n.endswith("0") and f"{n[:-1]}_last" in kernel.outputs}


def structured(kernel: Kernel, other: dict[str, int], dtypes, T: int) -> list[Case]:
    """Return a case of each structured kind that a kernel has tensors for, in each dtype."""
    kinds = [kind for kind in STRUCTURED if kind == INPUT or states(kernel)]
    return [cases.make(kernel, other, dtype, T, kind) for kind in kinds for dtype in dtypes]


def inputs(kernel: Kernel, reference, kind: str, shapes: dict, constants: dict[str, int], randn) -> dict:
    """Return what the reference draws for a kind; for a structured kind its first draw, with zeros set."""
    if kind not in STRUCTURED:
        return reference.draw(kind, shapes, constants, randn)
    tensors = dict(reference.draw(reference.DRAWS[0], shapes, constants, randn))
    for spec in kernel.input_specs:
        value = tensors.get(spec.name)
        if value is not None and (spec.name in states(kernel) if kind == STATE else "T" in spec.dims):
            tensors[spec.name] = 0 * value
    return tensors
