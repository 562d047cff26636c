"""Tensors of the E59 kernel: u is the step, of its size; a block has a batch row, since the norm is one over its channels."""

from elmanctl.kernel import Kernel
from elmanctl.tensors import cdiv
from elmanctl.tiles import BYTES, DoesNotFit, Tiling

WIDTH = 16  # channels of a thread, while there are warps
WARPS, LARGEST = 4, 8  # that carry: one for each scheduler, whose parts of a sum are one access; and the most
SLOTS, FEWEST = 8, 4  # of the ring: a step takes some 300 cycles, a copy from device memory up to 1000
OTHER = 1024  # bytes of shared memory besides the ring


def _choose(sizes, dtype, device) -> dict[str, int]:
    if device is None:  # the host's few, so that a thread has several chunks, and slots are used again
        return _division(sizes["D"], 2, 4)
    chunks = cdiv(sizes["D"], 128)  # of a warp
    warps = min(chunks, WARPS if sizes["D"] <= WARPS * 32 * WIDTH else LARGEST)
    own = cdiv(chunks, warps)
    row = own * warps * 128 * (BYTES[dtype] + max(4, BYTES[dtype]))  # d_y and h of a step
    slots = min(SLOTS, (device.shared_bytes - OTHER) // row)
    if slots < FEWEST:
        widest = (device.shared_bytes - OTHER) // (FEWEST * row // (own * warps)) * 128
        raise DoesNotFit(
            f"D={sizes['D']} in {dtype}: two steps of a row, {FEWEST * row >> 10} KiB, do not fit the shared memory of a multiprocessor, through "
            f"which the kernel reads ahead. The widest that fits is about D={widest}; choose a smaller dim or expansion."
        )
    return _division(sizes["D"], warps, slots)


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
            "WARPS": "warps of a block that carry the state, and as many that help them",
            "CHUNKS": "times four channels of a thread",
            "WHOLE": "1 where these are all the channels, which saves tests",
            "SLOTS": "rows of the ring through which it reads ahead",
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
