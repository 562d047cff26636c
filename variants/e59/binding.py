"""Tensors of the E59 kernel: u is the step, of its size; a block has a batch row, since the norm is one over its channels."""

from elmanctl.kernel import Kernel
from elmanctl.tensors import cdiv
from elmanctl.tiles import Tiling

LARGEST = 16  # warps of a block


def _choose(sizes, dtype, device) -> dict[str, int]:
    warps = (
        2 if device is None else min(LARGEST, cdiv(sizes["D"], 64))
    )  # the host's few, so that a thread has several pairs
    return {"WARPS": warps, "PAIRS": cdiv(sizes["D"], 64 * warps)}


kernel = Kernel(
    package=__package__,
    inputs={"u": "B T D", "h0": "B D @acc"},
    outputs={"y": "B T D", "h_last": "B D @acc"},
    saved={"h": "B T D @acc", "inverse": "B T @acc"},
    # A step's norm sums D squares.
    terms={"*": "T*D"},
    budgets={"registers": 128, "spill_bytes": 0, "shared_bytes": 0},
    work={"forward": "9*B*T*D", "backward": "16*B*T*D"},
    tiling=Tiling(
        {"WARPS": "warps of a block", "PAIRS": "times two channels of a thread"}, _choose, {"B": 32, "D": 1280}
    ),
)


def constants(config) -> dict[str, int]:
    """Return no constants: options change what torch makes of u."""
    return {}


def verify_sizes(config) -> dict[str, int]:
    """Return sizes to verify at: more channels than two warps have, so that a thread has two pairs, or one."""
    return {"D": 176}
