"""Truths that `verify --watch` keeps from one run to the next, as long as it runs.

A truth follows from the variant's Python files, the case and the seed; what is edited is mostly the kernel. Runs are processes of their own, so
that truths are files, in a folder that ends with the watch.
"""

import contextlib
import hashlib
import os
import pickle
from pathlib import Path

from elmanctl.variant import Spec
from elmanctl.verify import hashes
from elmanctl.verify.truth import Problem, Truth, establish

folder: Path | None = None  # where they are; set by a watch, from which the runs are forked


def truth(spec: Spec, problem: Problem) -> Truth:
    """Return the truth of a case of a configuration: the one that is kept, else it is established, and kept in a watch."""
    if folder is None:
        return establish(problem)
    parts = hashes.common_parts(spec.variant)
    told = (spec.name, problem.seed, *(parts.get(name) for name in ("reference", "layer", "shared")))
    path = folder / hashlib.sha256(repr(told).encode()).hexdigest()
    with contextlib.suppress(OSError):
        return pickle.loads(path.read_bytes())
    found = establish(problem)
    aside = path.with_suffix(f".{os.getpid()}")
    with contextlib.suppress(OSError):  # a full disk loses no result
        aside.write_bytes(pickle.dumps(found))
        aside.replace(path)
    return found
