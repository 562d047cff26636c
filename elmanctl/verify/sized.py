"""Builds at the sizes that are trained or timed, each checked by itself.

A tiling compiles another library for another division of the work over the device (tiles.py, spread.py), which widths and rows choose. The small
cases of verify take some divisions, a model in training another: a receipt vouches for those in which one of its cases passed.
"""

import contextlib
from collections.abc import Iterable

from elmanctl import takeover
from elmanctl.errors import UserError
from elmanctl.kernel import Kernel
from elmanctl.kernelbench.shapes import Shape
from elmanctl.tiles import DEVICES, Device, DoesNotFit
from elmanctl.variant import Spec
from elmanctl.verify import cases
from elmanctl.verify.cases import Case
from elmanctl.verify.drawn import STRUCTURED
from elmanctl.verify.record import Receipt

DTYPE = takeover.DTYPE


def lacking(
    spec: Spec, known: Receipt | None, shapes: Iterable[Shape], device: Device | None, name: str = ""
) -> list[Case]:
    """Return a case for each build that shapes take and in which no case of a receipt passed.

    Args:
        shapes: rows, steps and width of a layer, as it is given them.
        device: that the work is divided over, and its name; None for the host backend. The work of a receipt that was made on another chip was
            divided over that: over the one that stands for its target.
    Raises:
        UserError: for a shape that the kernel cannot hold.
    """
    kernel = spec.variant.kernel()
    if kernel is None or kernel.tiling is None or takeover.by_products(spec):
        return []
    draws = spec.variant.module("reference").DRAWS
    constants = spec.variant.module("binding").constants(spec.config)
    passed = [text for text in known.results if text not in known.failed] if known else []
    theirs = device if device is None or known is None or known.device_name == name else DEVICES.get(known.target)
    found, builds = [], []
    for case in _cases(spec, passed):
        with contextlib.suppress(DoesNotFit):
            builds.append(cases.build(kernel, constants, case, theirs))
    for shape in shapes:
        for _, _, sizes in takeover.kernels(spec, shape.dim, shape.B):
            wanted = Case(DTYPE, tuple((d, {**sizes, "T": shape.T}[d]) for d in kernel.dims), draws[0])
            try:
                build = cases.build(kernel, constants, wanted, device)
            except DoesNotFit as error:
                raise UserError(f"{shape.text()}: {error}") from None
            if build not in builds:
                builds.append(build)
                found.append(_shortest(kernel, constants, wanted, build, device))
    return found


def again(spec: Spec, known: Receipt | None) -> tuple[Case, ...]:
    """Return the cases of an earlier receipt that are of such builds: a whole run has them too."""
    return tuple(_cases(spec, known.sized)) if known and known.sized and spec.variant.has_kernel else ()


def _cases(spec: Spec, ids: Iterable[str]) -> list[Case]:
    """Return those of the checks with these ids that are cases in the dtype that is trained."""
    kernel, draws, found = spec.variant.kernel(), spec.variant.module("reference").DRAWS, []
    for text in ids:
        with contextlib.suppress(UserError):  # a check of the layer, a property, another dtype
            case = cases.parse(text, spec, kernel, (DTYPE,), (*draws, *STRUCTURED))
            found += [case] if case.id == text else []
    return found


def _shortest(kernel: Kernel, constants, wanted: Case, build: dict[str, int], device: Device | None) -> Case:
    """Return the case with the fewest steps, past a chunk, that compiles to a build."""
    k = cases.chunk(constants)
    for T in (k + 1, cases.long(k)):
        case = Case(wanted.dtype, tuple((d, T if d == "T" else size) for d, size in wanted.sizes), wanted.draw)
        if cases.build(kernel, constants, case, device) == build:
            return case
    return wanted
