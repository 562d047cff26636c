"""How a recurrence is divided over a device: pure functions, whose numbers are compiled into the kernel.

* Dense: the kernel keeps the recurrent matrix on the chip for a whole pass (csrc_common/elman/families/dense_recurrence.cuh says how), so its
  registers and shared memory must hold it. `dense` finds the fastest division that does, or raises DoesNotFit. A binding names it as `tiling=tiles.DENSE`.
* Time is estimated in cycles by a formula fitted to measurements on an H200; docs/performance.md has both.
* This module does not import torch.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from elmanctl.tensors import ArgumentError, cdiv

CONSTANTS = {
    "WARPS": "warps of a block; they share the terms of a sum",
    "CHUNKS": "times 32 terms that a warp multiplies",
    "TILES": "times 16 rows of the matrix that a block keeps",
    "SHARED": "of these tiles, kept in shared memory, the others in registers",
    "TURNS": "tiles of 8 batch rows that a group of blocks takes in turn",
    "WHOLE": "1 where no warp, tile of the batch or turn is partly empty, which saves the tests",
    "RING": "steps after which a slot of the exchange is used again",
    "DELAY": "cycles after a block's barrier before it first looks for the others' values",
}
TILE, ROWS, CHUNK = 16, 8, 32  # rows of the matrix, batch rows and terms of the kernel's smallest product
RING, DELAY = 32, 400
WARPS = (12, 8, 16, 4)  # in order of preference
BYTES = {"float32": 4, "bfloat16": 2, "float64": 8}
REGISTERS = 65536  # of a multiprocessor
OTHER_REGISTERS = 44  # of a thread, besides the matrix, the operand and the sums
# Cycles: a step's fixed chain (barrier, store, trip through the cache, load) with 12 warps, what two warps fewer add to it, and a turn of
# several, which hides a part of the chain.
CHAIN, EXPOSED, TURN = 1240, 55, 900
MMA, PLAIN, SUM = 5, 200, 8  # of an mma, of the same without tensor cores, and of adding a warp's tile
SHARED_BYTES, EXCHANGE_BYTES = 128 / 0.65, 64  # a cycle


class DoesNotFit(ArgumentError):
    """A width that the persistent kernel cannot hold on the chip."""


@dataclass(frozen=True)
class Device:
    """What a division depends on.

    Args:
        multiprocessors: how many; one block runs on each.
        shared_bytes: shared memory that a block can have.
    """

    multiprocessors: int
    shared_bytes: int


# The device that a target's builds are for where no such device is present: its largest part.
DEVICES = {
    "sm_80": Device(108, 166_912),
    "sm_86": Device(84, 101_376),
    "sm_89": Device(142, 101_376),
    "sm_90a": Device(132, 232_448),
    "sm_100a": Device(148, 232_448),
    "sm_103a": Device(148, 232_448),
    "sm_120a": Device(188, 101_376),
}


def of_target(target: str) -> Device | None:
    """Return the device that builds for a target are divided for where no such device is present; None for the host.

    Raises:
        ArgumentError: for an architecture that DEVICES does not have.
    """
    if target.startswith("sm_") and target not in DEVICES:
        raise ArgumentError(
            f"tiles.py has no {target}. It has: {', '.join(DEVICES)}. Add its multiprocessors and shared memory."
        )
    return DEVICES.get(target)


@dataclass(frozen=True)
class Tiling:
    """How a kernel family gets compile-time constants that depend on run-time sizes.

    Args:
        constants: name -> meaning.
        choose: (sizes by name, dtype, device) -> their values.
        typical: sizes that `elmanctl build` compiles for unless told others.
    """

    constants: Mapping[str, str]
    choose: Callable[[Mapping[str, int], str, Device | None], dict[str, int]]
    typical: Mapping[str, int]


@dataclass(frozen=True)
class Division:
    """One way to divide, and the cycles that a step is estimated to take."""

    constants: dict[str, int]
    cycles: float


def dense(sizes: Mapping[str, int], dtype: str, device: Device | None) -> dict[str, int]:
    """Return the values of CONSTANTS for a batch and a width.

    Args:
        sizes: B and D.
        dtype: compute dtype.
        device: None for the host backend, whose division is small: every feature of the kernel shows at tiny sizes.
    Raises:
        DoesNotFit: where no division holds the matrix, with the largest width that would.
    """
    B, D = sizes["B"], sizes["D"]
    if device is None:
        chunks = 1
        while chunks * 4 * CHUNK < D:
            chunks *= 2
        turns = cdiv(cdiv(B, ROWS), 2)
        names = {
            "WARPS": 4,
            "CHUNKS": chunks,
            "TILES": 2,
            "SHARED": 1,
            "TURNS": turns,
            "WHOLE": whole(B, D, 4, chunks, turns),
        }
        return names | {"RING": RING, "DELAY": 0}
    found = min(divisions(B, D, dtype, device), key=lambda d: d.cycles, default=None)
    if found is None:
        widest = next((w for w in range(D // TILE * TILE, 0, -TILE) if any(divisions(B, w, dtype, device))), 0)
        raise DoesNotFit(
            f"D={D} in {dtype}: {D * D * BYTES[dtype] / 2**20:.0f} MiB of recurrent matrix do not fit the registers and shared memory of "
            f"{device.multiprocessors} multiprocessors, where the persistent kernel keeps it. The widest that fits is D={widest}. "
            "The option recurrence=cublas takes one library product a step instead, at any width."
        )
    return found.constants


def divisions(B: int, D: int, dtype: str, device: Device) -> Iterator[Division]:
    """Yield every division that fits."""
    tensor_cores = dtype == "bfloat16"
    row_tiles, batch_tiles = cdiv(D, TILE), cdiv(B, ROWS)
    words = 8 * BYTES[dtype] // 4  # 32-bit words of the 8 elements that a lane holds of a row
    for warps in WARPS:
        chunks = cdiv(D, CHUNK * warps)
        if warps > max(4, cdiv(D, CHUNK)):
            continue  # some would have nothing to multiply
        limit = min(255, REGISTERS // (32 * warps) // 8 * 8)
        for tiles in range(1, warps // 2 + 1):
            blocks = cdiv(row_tiles, tiles)
            if blocks > device.multiprocessors:
                continue
            used = OTHER_REGISTERS + chunks * words + 4 * tiles
            # Only tensor cores are worth the registers: the product in plain arithmetic needs them itself.
            held = max(0, min(tiles, (limit - used) // (2 * chunks * words))) if tensor_cores else 0
            if used > limit and tensor_cores:
                continue
            shared = tiles - held
            kept = warps * chunks * shared * 64 * words * 4
            parts = 2 * warps * tiles * TILE * ROWS * 4
            if kept + parts > device.shared_bytes:
                continue
            groups = device.multiprocessors // blocks
            turns = cdiv(batch_tiles, groups)
            work = tiles * chunks * 2 * cdiv(warps, 4) * (MMA if tensor_cores else PLAIN) + tiles * warps * SUM
            work += kept / SHARED_BYTES + D * ROWS * BYTES[dtype] / EXCHANGE_BYTES
            work += EXPOSED * max(0, 12 - warps) / 2
            cycles = CHAIN + work if turns == 1 else turns * (TURN + work)
            names = {"WARPS": warps, "CHUNKS": chunks, "TILES": tiles, "SHARED": shared, "TURNS": turns}
            names |= {"WHOLE": whole(B, D, warps, chunks, turns), "RING": RING, "DELAY": DELAY}
            yield Division(names, cycles)


def whole(B: int, D: int, warps: int, chunks: int, turns: int) -> int:
    """Return 1 where the warps' chunks make up D and the turns of the groups make up B, else 0."""
    return int(warps * chunks * CHUNK == D and B % (ROWS * turns) == 0)


DENSE = Tiling(CONSTANTS, dense, {"B": 32, "D": 1536})

# Matrix states: elements of a lane; the largest state that is spread (at 32 x 32 nothing was gained); the shortest sequence for which a second
# build is worth its compilation, so that of verify's cases the short ones show the one and the long ones the other.
LANE, SPREADABLE, LONG = 8, 512, 64
FEW = 2  # warps of a multiprocessor, half of its schedulers: with twice as many, spreading gains nothing


def matrix(sizes: Mapping[str, int], dtype: str, device: Device | None) -> dict[str, int]:
    """Return whether to spread the states of a matrix recurrence over twice as many lanes: where states are few, a step takes as long as its
    chain of instructions, which that shortens, and blocks of one state reach more multiprocessors.

    Args:
        sizes: B, T, H, N, and M where it differs from N.
        dtype: compute dtype.
        device: None for the host backend, which follows the largest Hopper.
    """
    elements = sizes["N"] * sizes.get("M", sizes["N"])
    warps = sizes["B"] * sizes["H"] * cdiv(elements, 32 * LANE)
    few = warps <= FEW * (device or DEVICES["sm_90a"]).multiprocessors
    return {"SPREAD": int(few and elements <= SPREADABLE and sizes["T"] >= LONG)}


MATRIX = Tiling(
    {"SPREAD": "1: a state over twice as many lanes and alone in its block, for few states"},
    matrix,
    {"B": 32, "T": 512, "H": 32},
)
