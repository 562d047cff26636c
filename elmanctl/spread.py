"""How a matrix recurrence is divided over a device: states spread over more lanes, or several packed into a warp; compiled into the kernel.

A binding names it as `tiling=spread.MATRIX`, or `spread.HEADS`, which also chooses how many steps lie between two saved states. The reasons are
in docs/performance.md: "Few states", "Many small states" and "Steps between two slots". This module does not import torch.
"""

from collections.abc import Mapping

from elmanctl.tensors import cdiv
from elmanctl.tiles import DEVICES, Device, Tiling

# Matrix states: elements of a lane; the largest state that is spread (at 32 x 32 nothing was gained); the shortest sequence for which a second
# build is worth its compilation, so that of verify's cases the short ones show the one and the long ones the other.
LANE, SPREADABLE, LONG = 8, 512, 64
COLUMNS = 4  # of a spread lane at most; a power of two of lanes shares a row, so that more are left where its keys have a larger odd part
FEW = 2  # warps of a multiprocessor, half of its schedulers: with twice as many, spreading gains nothing
WARP = 32
# States of a multiprocessor above which those that leave half of a warp's lanes empty are packed: as many as it has room for in the backward
# pass with a warp each. Up to there they take less time alone, with a shorter chain.
MANY = 8

# Steps between two saved states; the bytes of them that a token may cost in a layer: 256 MiB at 16384 tokens; bytes of an accumulator.
STEPS, MORE, SLOTS, FLOAT = 8, 16, 16 * 1024, 4


def matrix(sizes: Mapping[str, int], dtype: str, device: Device | None) -> dict[str, int]:
    """Return how the states of a matrix recurrence are divided, by at most one of two constants.

    * SPREAD: over twice as many lanes. Where states are few, a step takes as long as its chain of instructions, which that shortens, and blocks
      of one state reach more multiprocessors.
    * PACKED: several in a warp. Where small states are many, instructions bind, and a warp for each would issue them for lanes with two elements
      or four. In short sequences, whose speed is no matter, from one full warp on, which verify then sees.

    Args:
        sizes: B, T, H, N, and M where it differs from N; NUMBERS, if any: numbers of a whole state that a step needs, which is alone in its block.
        dtype: compute dtype.
        device: None for the host backend, which follows the largest Hopper.
    """
    keys, values, states = sizes["N"], sizes.get("M", sizes["N"]), sizes["B"] * sizes["H"]
    elements, long = keys * values, sizes["T"] >= LONG
    multiprocessors = (device or DEVICES["sm_90a"]).multiprocessors
    few = states * cdiv(elements, WARP * LANE) <= FEW * multiprocessors
    odd = keys // (keys & -keys)
    spread = few and elements <= SPREADABLE and odd <= COLUMNS and long
    many = states > MANY * multiprocessors if long else states * elements >= WARP * LANE
    packable = 2 * elements <= WARP * LANE and keys % 8 == 0 and not sizes.get("NUMBERS")
    return {"SPREAD": int(spread), "PACKED": int(packable and many)}


MATRIX = Tiling(
    {
        "SPREAD": "1: a state over twice as many lanes and alone in its block, for few states",
        "PACKED": "1: several states in a warp, for many small ones",
    },
    matrix,
    {"B": 32, "T": 512, "H": 32},
)


def on_chip(keys: int, values: int, steps: int) -> int:
    """Return the most numbers that a backward pass keeps in shared memory for chunks of so many steps, without the states.

    Four records of two vectors over keys and two over values each, five vectors over values for what is given from step to step, and twice two
    gradients of rows; all with a step more than a chunk has, at its end.
    """
    return (steps + 1) * (4 * 2 * (keys + values) + 9 * values)


def steps(sizes: Mapping[str, int], dtype: str, device: Device | None) -> int:
    """Return how many steps lie between two saved states (slots) of a matrix recurrence; the backward pass keeps the states of so many at a time.

    * 8 where shared memory has room for so many states: twice as many would leave room for half as many heads, or go to global memory.
    * 8 where a token's share of a layer's slots is small.
    * 16 for others, which halves it, if what a chunk needs besides its states still fits in shared memory: in fp64, on the host, it does not.

    Args:
        sizes: H, N, and M where it differs from N.
        dtype: compute dtype.
        device: None for the host backend, which has a Hopper's shared memory.
    """
    keys, values = sizes["N"], sizes.get("M", sizes["N"])
    shared = (device or DEVICES["sm_90a"]).shared_bytes
    near = (on_chip(keys, values, STEPS) + (STEPS + 1) * keys * values) * FLOAT <= shared
    small = sizes["H"] * keys * values * FLOAT <= SLOTS * STEPS
    fits = on_chip(keys, values, MORE) * (2 * FLOAT if dtype == "float64" else FLOAT) <= shared
    return STEPS if near or small or not fits else MORE


def heads(sizes: Mapping[str, int], dtype: str, device: Device | None) -> dict[str, int]:
    """Return what `matrix` does, and K: a layer of several heads may have states whose slots take more memory than all else it keeps."""
    return {**matrix(sizes, dtype, device), "K": steps(sizes, dtype, device)}


HEADS = Tiling({**MATRIX.constants, "K": "steps between two saved states, chosen by memory"}, heads, MATRIX.typical)
