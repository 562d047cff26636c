"""Tensors of the E59 kernel: u is the step, of its size; a block has a batch row, since the norm is one over its channels."""

from elmanctl.kernel import Kernel
from elmanctl.tensors import ACCUMULATOR, cdiv
from elmanctl.tiles import BYTES, Tiling

WARPS = 4  # of a role: one for each scheduler, whose parts of a sum are one access
SLOTS, FEWEST = 8, 4  # of the ring: a step takes some 350 cycles, a copy from device memory up to 1000; and for what is under way at once


def _choose(sizes, dtype, device) -> dict[str, int]:
    D, warps = sizes["D"], min(WARPS, cdiv(sizes["D"], 128))
    if device is None:
        return _division(D, 2, FEWEST)  # few, so that a thread has several chunks and slots are used again
    room, accumulator = cdiv(D, 128 * warps) * 128 * warps, BYTES[ACCUMULATOR[dtype]]
    free = device.shared_bytes - 2 * room * accumulator - 1024  # besides the rows that are passed and small arrays
    slots = min(SLOTS, free // (room * (BYTES[dtype] + accumulator)))  # d_y and h of a step
    return _division(D, warps, slots if slots >= FEWEST else 0)


def _division(D: int, warps: int, slots: int) -> dict[str, int]:
    return {"WARPS": warps, "CHUNKS": cdiv(D, warps * 128), "SLOTS": slots, "WHOLE": int(D % (warps * 128) == 0)}


kernel = Kernel(
    package=__package__,
    inputs={"u": "B T D", "h0": "B D @acc"},
    outputs={"y": "B T D", "h_last": "B D @acc"},
    # The inverse four times: what one asynchronous copy brings.
    saved={"h": "B T D @acc", "inverse": "B T 4 @acc"},
    # A step's norm sums D squares.
    terms={"*": "T*D"},
    budgets={"registers": 168, "spill_bytes": 0, "shared_bytes": 0},
    work={"forward": "9*B*T*D", "backward": "16*B*T*D"},
    tiling=Tiling(
        {
            "WARPS": "warps of a role, of which a block has three",
            "CHUNKS": "times four channels of a thread",
            "WHOLE": "1 where these are all the channels, which saves tests",
            "SLOTS": "rows of the ring through which it reads ahead; 0 for none",
        },
        _choose,
        {"B": 32, "D": 1280},
    ),
)


def constants(config) -> dict[str, int]:
    """Return no constants: options change what torch makes of u."""
    return {}


def verify_sizes(config) -> dict[str, int]:
    """Return sizes to verify at: more channels than two warps have at once, so that a thread has two chunks, or one."""
    return {"D": 296}
