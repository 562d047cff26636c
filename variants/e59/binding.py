"""Tensors of the E59 kernel: u is the step, of its size; a block has a batch row, since the norm is one over its channels."""

from elmanctl.kernel import Kernel
from elmanctl.tensors import ACCUMULATOR, cdiv
from elmanctl.tiles import BYTES, Tiling

WARPS = 4  # of a role: one for each scheduler, whose parts of a sum are one access
WIDE, MORE = 4096, 8  # the same for rows that are wider, for which so few have not enough registers
SLOTS, FEWEST = (
    8,
    4,
)  # of the ring: a step takes some 350 cycles, a copy from device memory up to 1000; four are in use at once
HOST_BYTES, OTHER_BYTES = (
    232_448,
    1024,
)  # of shared memory: what a block on the host can have, and what small arrays take


def _choose(sizes, dtype, device) -> dict[str, int]:
    D = sizes["D"]
    if device is None:  # few warps and slots, so that a thread has several chunks and slots are used again
        warps, most, memory = 2, FEWEST, HOST_BYTES
    else:
        warps, most, memory = MORE if D > WIDE else min(WARPS, cdiv(D, 128)), SLOTS, device.shared_bytes
    chunks = cdiv(D, warps * 128)
    room, accumulator = chunks * warps * 128, BYTES[ACCUMULATOR[dtype]]
    free = memory - 2 * room * accumulator - OTHER_BYTES  # besides the rows that are passed
    slots = min(most, free // (room * (BYTES[dtype] + accumulator)))  # d_y and h of a step
    return {"WARPS": warps, "CHUNKS": chunks, "SLOTS": slots if slots >= FEWEST else 0, "WHOLE": int(room == D)}


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
