"""Which cases verify runs, and how a case is written: `float32 B3 T17 D48 typical`.

* Sizes differ from each other, so that swapped axes show; B is above 1; T goes over 1, 2, 3 and both sides of a chunk.
* A long case holds what only adds up over time: a carry or a gradient kept in too few bits.
* One row alone, and more rows and channels than a tile of 16 or four of them: where a kernel's second tile would go unseen.
"""

import re
from dataclasses import dataclass

from elmanctl.errors import UserError, did_you_mean
from elmanctl.kernel import Kernel
from elmanctl.rules import Multiple
from elmanctl.tensors import DTYPES
from elmanctl.variant import Spec

CHUNK = 8
ROWS = 3
LONG = 67
MEMORY = 259
TILE, MANY_ROWS = 16, 17
WIDTH = 48
FEW, MORE = 2, 5  # heads and the like, and tiles, of a wide case
PRIMES = (5, 7, 11, 13)


@dataclass(frozen=True)
class Case:
    """One run of a kernel: compute dtype, run-time sizes by name, and the kind of draw."""

    dtype: str
    sizes: tuple[tuple[str, int], ...]
    draw: str

    @property
    def id(self) -> str:
        return " ".join([self.dtype, *(f"{name}{size}" for name, size in self.sizes), self.draw])


def chunk(constants: dict[str, int]) -> int:
    """Return the chunk length around which T is chosen: the constant K, else 8."""
    return constants.get("K", CHUNK)


def other_sizes(spec: Spec, kernel: Kernel) -> dict[str, int]:
    """Return sizes of the run-time dims besides B and T: binding.py's `verify_sizes(config)`, else small legal ones."""
    given = getattr(spec.variant.module("binding"), "verify_sizes", None)
    sizes = dict(given(spec.config)) if given else {}
    steps = [r.step for r in spec.variant.rules.of("dim") if isinstance(r, Multiple) and not r.method]
    primes = iter(PRIMES)
    for name in kernel.dims:
        if name not in ("B", "T") and name not in sizes:
            sizes[name] = width(max(steps, default=1)) if name == "D" else next(primes)
    return sizes


def declared(spec: Spec) -> str:
    """Return in words what binding.py says about how exact its kernel is and at which sizes it is run: all that could loosen a verdict."""
    kernel = spec.variant.kernel()
    if kernel is None:
        return ""
    rounds = ", ".join(f"{point} {direction}" for point, direction in kernel.rounds.items()) or "none"
    terms = ", ".join(f"{'any' if tensor == '*' else tensor} {text}" for tensor, text in kernel.terms.items())
    given = getattr(spec.variant.module("binding"), "verify_sizes", None)
    sizes = ", ".join(f"{name} {size}" for name, size in given(spec.config).items()) if given else ""
    return f"roundings inside: {rounds}; terms of the longest sum: {terms}" + (f"; sizes: {sizes}" if sizes else "")


def wide(spec: Spec, other: dict[str, int]) -> dict[str, int]:
    """Return sizes with D at five tiles, a multiple of the hard steps, and few of other dims; those of `verify_sizes` stay."""
    step = max([r.step for r in spec.variant.rules.of("dim") if isinstance(r, Multiple) and not r.method], default=1)
    tile = -(-TILE // step) * step
    own = {**dict.fromkeys(PRIMES, FEW), width(step): MORE * tile}
    return {n: own.get(size, size) for n, size in other.items()}


def width(step: int) -> int:
    """Return a legal width that is no power of two."""
    return WIDTH if WIDTH % step == 0 else 3 * step


def lengths(k: int) -> list[int]:
    """Return the lengths: 1, 2, 3, around one chunk, and an odd one past the second chunk."""
    return sorted({1, 2, 3, k - 1, k, k + 1, 2 * k + 3} - {0})


def long(k: int) -> int:
    """Return the length of a long case: past the second chunk, however long a chunk is."""
    return max(LONG, 2 * k + 5)


def make(kernel: Kernel, other: dict[str, int], dtype: str, T: int, draw: str, B: int = ROWS) -> Case:
    """Build a case; B gives way where it would equal T."""
    B = 2 if B == T else B
    return Case(dtype, tuple((d, {"B": B, "T": T, **other}[d]) for d in kernel.dims), draw)


def default(spec: Spec, kernel: Kernel, constants: dict[str, int], dtypes, draws, quick: bool = False) -> list[Case]:
    """Return the cases of one configuration, dtypes interleaved so that their builds overlap."""
    k, other = chunk(constants), other_sizes(spec, kernel)
    odd = 2 * k + 3
    plan = [(T, draws[0]) for T in ((2, k + 1) if quick else lengths(k))]
    plan += [(k + 1 if quick else odd, draw) for draw in draws[1:]]
    if not quick:
        plan += [(long(k), draw) for draw in (draws[0], draws[-1])]
    cases = [make(kernel, other, dtype, T, draw) for T, draw in plan for dtype in dtypes]
    if not quick:
        cases += [make(kernel, other, dtype, 3, draws[0], 1) for dtype in dtypes]
        cases += [make(kernel, wide(spec, other), dtype, 3, draws[0], MANY_ROWS) for dtype in dtypes]
    if "bfloat16" in dtypes and not quick:  # where a sum kept in too few bits drifts out of the noise of its store
        cases.remove(make(kernel, other, "bfloat16", long(k), draws[0]))  # the longer case shows what it does
        cases.append(make(kernel, other, "bfloat16", MEMORY, draws[0], 2))
    return list(dict.fromkeys(cases))


def thorough(spec: Spec, kernel: Kernel, constants: dict[str, int], dtypes, draws) -> list[Case]:
    """Return the default cases, and every kind of draw at every length, with one row, with many rows, and over many steps."""
    k, other = chunk(constants), other_sizes(spec, kernel)
    lengthy = (*lengths(k), 3 * k, 3 * k + 1, long(k))
    every = [make(kernel, other, d, T, draw) for T in lengthy for draw in draws for d in dtypes]
    every += [make(kernel, other, d, T, draw, 1) for T in (k, 2 * k + 3) for draw in draws for d in dtypes]
    every += [
        make(kernel, wide(spec, other), d, T, draw, MANY_ROWS) for T in (3, k + 1) for draw in draws for d in dtypes
    ]
    every += [make(kernel, other, d, MEMORY, draws[0], 2) for d in dtypes]
    return list(dict.fromkeys([*default(spec, kernel, constants, dtypes, draws), *every]))


def build(kernel: Kernel, constants: dict[str, int], case: Case, device) -> dict[str, int]:
    """Return what the build of a case takes on a `tiles.Device`, None for the host backend.

    Raises:
        DoesNotFit: where the device cannot hold it.
    """
    return kernel.complete(constants, {**constants, **dict(case.sizes)}, case.dtype, device)


def parse(text: str, spec: Spec, kernel: Kernel, dtypes, draws) -> Case:
    """Read a case as it is printed; a size that is left out takes its default.

    Raises:
        UserError: for an unknown dtype, size or draw.
    """
    sizes = {"B": ROWS, "T": 2 * CHUNK + 1, **other_sizes(spec, kernel)}
    dtype, draw = "float32", draws[0]
    for word in text.split():
        found = re.fullmatch(r"([A-Za-z_]+)([1-9][0-9]*)", word)
        if word in DTYPES:
            dtype = word
        elif word in draws:
            draw = word
        elif found and found[1] in kernel.dims:
            sizes[found[1]] = int(found[2])
        else:
            known = [*dtypes, *draws]
            raise UserError(
                f"--case {text!r}: {word} is no dtype, size or draw of {spec.name}.{did_you_mean(word, known)} "
                f"Dtypes: {', '.join(dtypes)}; sizes: {', '.join(kernel.dims)}; draws: {', '.join(draws)}."
            )
    if dtype not in dtypes:
        raise UserError(f"--case {text!r}: {spec.name} has no {dtype} here. It has: {', '.join(dtypes)}.")
    return Case(dtype, tuple((d, sizes[d]) for d in kernel.dims), draw)


def allowed_dtypes(kernel: Kernel, target: str) -> tuple[str, ...]:
    """Return the dtypes that compile for a target."""
    parts = (d.split("@") for d in kernel.dtypes)
    return tuple(p[0] for p in parts if len(p) == 1 or (p[1] == "host") == (target == "host"))
