"""Truths that `verify --watch` keeps from one run to the next, as long as it runs.

A truth follows from the variant's Python files, the case and the seed; what is edited is mostly the kernel. Runs are processes of their own, so
that truths are files, in a folder that ends with the watch.
"""

import contextlib
import hashlib
from pathlib import Path

import numpy as np

from elmanctl.errors import UserError
from elmanctl.files import atomic
from elmanctl.variant import Spec
from elmanctl.verify import hashes
from elmanctl.verify.truth import Problem, Truth, establish

folder: Path | None = None  # where they are; set by a watch, from which the runs are forked


def truth(spec: Spec, problem: Problem) -> Truth:
    """Return the truth of a case of a configuration: the one that is kept, else it is established, and kept in a watch."""
    if folder is None:
        return establish(problem)
    common = hashes.common_parts(spec.variant)
    told = (spec.name, problem.seed, *(common.get(name) for name in ("reference", "layer", "shared")))
    path = folder / hashlib.sha256(repr(told).encode()).hexdigest()
    with contextlib.suppress(OSError), np.load(path, allow_pickle=False) as kept:
        parts = {kind: {n[1:]: kept[n] for n in kept.files if n[0] == kind} for kind in "ve"}
        return Truth(problem, parts["v"], parts["e"])
    found = establish(problem)
    arrays = {f"v{n}": a for n, a in found.values.items()} | {f"e{n}": a for n, a in found.errors.items()}
    with contextlib.suppress(UserError), atomic(path, "wb") as file:  # a full disk loses no result
        np.savez(file, **arrays)
    return found
