"""How a matrix recurrence is divided over a device: whether its states are spread over more lanes; compiled into the kernel.

A binding names it as `tiling=spread.MATRIX`. docs/performance.md, "Few states", has the measurements. This module does not import torch.
"""

from collections.abc import Mapping

from elmanctl.tensors import cdiv
from elmanctl.tiles import DEVICES, Device, Tiling

# Matrix states: elements of a lane; the largest state that is spread (at 32 x 32 nothing was gained); the shortest sequence for which a second
# build is worth its compilation, so that of verify's cases the short ones show the one and the long ones the other.
LANE, SPREADABLE, LONG = 8, 512, 64
COLUMNS = 4  # of a spread lane at most; a power of two of lanes shares a row, so that more are left where its keys have a larger odd part
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
    odd = sizes["N"] // (sizes["N"] & -sizes["N"])
    return {"SPREAD": int(few and elements <= SPREADABLE and odd <= COLUMNS and sizes["T"] >= LONG)}


MATRIX = Tiling(
    {"SPREAD": "1: a state over twice as many lanes and alone in its block, for few states"},
    matrix,
    {"B": 32, "T": 512, "H": 32},
)
