"""How a dense recurrence is divided over a device: one pure function, whose numbers are compiled into the kernel.

* The kernel keeps the recurrent matrices on the chip for a whole pass (csrc_common/elman/families/dense_recurrence/engine.cuh says how), so
  its registers and shared memory must hold them. `divide` finds the fastest division that does, or raises DoesNotFit. A binding names a
  tiling: DENSE, or one of families/gated.py.
* Time is estimated in cycles by a formula fitted to measurements on an H200; docs/performance.md has both.
* This module does not import torch.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from elmanctl.tensors import ArgumentError, cdiv

Sizes = Mapping[str, int]  # by the names of dimensions
COMMON = {
    "WARPS": "warps of a block; they share the terms of a sum",
    "TURNS": "tiles of 8 batch rows that a group of blocks takes in turn",
    "RING": "steps after which a slot of the exchange is used again",
    "DELAY": "cycles after a block's barrier before it first looks for the others' values",
}
OF_A_PRODUCT = {
    "CHUNKS": "times 32 terms of each operand that a warp multiplies",
    "TILES": "times 16 channels whose rows of the matrix a block keeps",
    "SHARED": "of these tiles, for each sum of a channel, kept in shared memory, the others in registers",
    "WHOLE": "1 where no warp, tile of the batch or turn is partly empty, which saves the tests",
}
TILE, ROWS, CHUNK = 16, 8, 32  # rows of the matrix, batch rows and terms of the kernel's smallest product
RINGS, RING_BYTES, DELAY = (64, 32), 8 << 20, 400  # the longer ring where it takes no more of the L2 cache
WARPS = (12, 8, 16, 4)  # in order of preference
BYTES = {"float32": 4, "bfloat16": 2, "float64": 8}
REGISTERS = 65536  # of a multiprocessor
OTHER_REGISTERS = 44  # of a thread, besides the matrix, the operand and the sums
SUM_REGISTERS = 10  # for each further sum of a channel
SPARE, SPILL = 8, 60  # registers without which a thread of several turns spills, and the cycles of that in a turn
CARRIED = 16  # bytes that a thread carries of two channels, in shared memory where it has several turns
# Cycles: a step's chain (barrier, store, trip through the cache, load) with 12 warps, two warps fewer, a turn of several that hides a part.
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
class Product:
    """One product of a step: M [sums * channels, terms] times what the blocks exchange; the backward pass multiplies by its transpose.

    Args:
        prefix: of its constants' names.
        channels, terms: names of the dimensions.
        sums: rows of M for each channel, a number or the name of a constant.
    """

    prefix: str = ""
    channels: str = "D"
    terms: str = "D"
    sums: int | str = 1

    def shape(self, sizes: Mapping[str, int]) -> tuple[int, int, int]:
        """Return channels, terms and sums."""
        return sizes[self.channels], sizes[self.terms], self.sums if isinstance(self.sums, int) else sizes[self.sums]


@dataclass(frozen=True)
class Division:
    """One way to divide, and the cycles that a step is estimated to take."""

    constants: dict[str, int]
    cycles: float


def divide(
    sizes: Sizes, dtype: str, device: Device | None, products: tuple[Product, ...], registers: int, carry: bool
) -> dict[str, int]:
    """Return the values of a tiling's constants for a batch and a width.

    Args:
        sizes: B, D and what else the products name.
        dtype: compute dtype.
        device: None for the host backend, whose division is small: every feature of the kernel shows at tiny sizes.
        products: of a step, in their order; the last one's channels are D.
        registers: of a thread with one sum a channel, besides the matrices, the operand and the sums.
        carry: whether a thread keeps something of its channels from step to step.
    Raises:
        DoesNotFit: where no division holds the matrices, with the largest width that would.
    """
    D = sizes["D"]
    if device is None:
        return _host(sizes, products)
    found = min(divisions(sizes, dtype, device, products, registers, carry), key=lambda d: d.cycles, default=None)
    if found is None:
        wider = ({**sizes, "D": w} for w in range(D // TILE * TILE, 0, -TILE))
        widest = next((w["D"] for w in wider if any(divisions(w, dtype, device, products, registers, carry))), 0)
        elements = sum(channels * terms * sums for channels, terms, sums in (p.shape(sizes) for p in products))
        raise DoesNotFit(
            f"D={D} in {dtype}: {elements * BYTES[dtype] / 2**20:.0f} MiB of recurrent matrix do not fit the registers and shared memory of "
            f"{device.multiprocessors} multiprocessors, where the persistent kernel keeps it. The widest that fits is D={widest}. "
            "The option recurrence=cublas takes library products in each step instead, at any width."
        )
    return found.constants


def _host(sizes: Mapping[str, int], products: tuple[Product, ...]) -> dict[str, int]:
    B, turns = sizes["B"], cdiv(cdiv(sizes["B"], ROWS), 2)
    names = {"WARPS": 4, "TURNS": turns, "RING": RINGS[-1], "DELAY": 0}
    shapes = [p.shape(sizes) for p in products]
    for tiles in (2, 1):
        own = [cdiv(cdiv(channels, TILE), cdiv(cdiv(sizes["D"], TILE), tiles)) for channels, _, _ in shapes]
        if max(own) <= 2:
            break
    for p, (_, terms, _), held in zip(products, shapes, own, strict=True):
        chunks = 1
        while chunks * 4 * CHUNK < terms:
            chunks *= 2
        values = {"CHUNKS": chunks, "TILES": held, "SHARED": 1, "WHOLE": whole(B, terms, 4, chunks, turns)}
        names |= {p.prefix + name: value for name, value in values.items()}
    return names


def divisions(
    sizes: Sizes, dtype: str, device: Device, products: tuple[Product, ...], registers: int, carry: bool
) -> Iterator[Division]:
    """Yield every division that fits; the arguments are those of `divide`."""
    B, D, tensor_cores = sizes["B"], sizes["D"], dtype == "bfloat16"
    ring = next((r for r in RINGS if r * cdiv(B, ROWS) * ROWS * D * BYTES[dtype] <= RING_BYTES), RINGS[-1])
    words = 8 * BYTES[dtype] // 4  # 32-bit words of the 8 elements that a lane holds of a row
    for warps in WARPS:
        if warps > max(4, cdiv(D, CHUNK)):
            continue  # some would have nothing to multiply
        limit = min(255, REGISTERS // (32 * warps) // 8 * 8)
        for tiles in range(1, warps // 2 + 1):
            blocks = cdiv(cdiv(D, TILE), tiles)
            if blocks > device.multiprocessors:
                continue
            turns = cdiv(cdiv(B, ROWS), device.multiprocessors // blocks)
            shapes = [p.shape(sizes) for p in products]
            own = [cdiv(cdiv(c, TILE), blocks) for c, _, _ in shapes]
            parts = [_Part(cdiv(t, CHUNK * warps), n, n * k) for (_, t, k), n in zip(shapes, own, strict=True)]
            # The forward pass has sums times the rows, the backward pass as many times the terms.
            moved = max(
                max(p.chunks * words + 4 * p.units, p.units // p.tiles * p.chunks * words + 4 * p.tiles) for p in parts
            )
            free = limit - registers - SUM_REGISTERS * (max(k for _, _, k in shapes) - 1) - moved
            if 2 * max(p.tiles for p in parts) > warps or (free < 0 and tensor_cores):
                continue
            names = {"WARPS": warps, "TURNS": turns, "RING": ring, "DELAY": DELAY}
            kept, cycles = 0, 0.0
            for p, product, (_, terms, _) in zip(parts, products, shapes, strict=True):
                # Only tensor cores are worth the registers: the product in plain arithmetic needs them itself.
                held = max(0, min(p.units, free // (2 * p.chunks * words))) if tensor_cores else 0
                free -= held * 2 * p.chunks * words
                shared = (p.units - held) * warps * p.chunks * 64 * words * 4
                kept += shared
                work = p.units * p.chunks * 2 * cdiv(warps, 4) * (MMA if tensor_cores else PLAIN)
                work += (p.units + p.tiles) / 2 * warps * SUM  # the mean of both passes, here and below
                work += (p.units // p.tiles + 1) / 2 * terms * ROWS * BYTES[dtype] / EXCHANGE_BYTES
                work += shared / SHARED_BYTES + EXPOSED * max(0, 12 - warps) / 2
                cycles += CHAIN + work if turns == 1 else turns * (TURN + work)
                values = {"CHUNKS": p.chunks, "TILES": p.tiles, "SHARED": p.units - held}
                values["WHOLE"] = whole(B, terms, warps, p.chunks, turns)
                names |= {product.prefix + name: value for name, value in values.items()}
            cycles += turns * SPILL * (turns > 1 and free < SPARE)
            sums = 2 * warps * max(p.units for p in parts) * TILE * ROWS * 4
            carried = turns * 64 * tiles * CARRIED if turns > 1 and carry else 0
            if kept + sums + carried <= device.shared_bytes:
                yield Division(names, cycles)


@dataclass(frozen=True)
class _Part:
    """What a block has of a product: times 32 terms a warp, times 16 channels, and these times the sums of a channel."""

    chunks: int
    tiles: int
    units: int


def whole(B: int, terms: int, warps: int, chunks: int, turns: int) -> int:
    """Return 1 where the warps' chunks make up the terms and the turns of the groups make up B, else 0."""
    return int(warps * chunks * CHUNK == terms and B % (ROWS * turns) == 0)


def tiling(*products: Product, typical: Mapping[str, int], registers: int, carry: bool = True) -> Tiling:
    """Return a tiling for these products of a step; the arguments are those of `divide`, and `typical` sizes."""
    own = {
        p.prefix + name: f"of the product {p.prefix[:-1]}: {text}" if p.prefix else text
        for p in products
        for name, text in OF_A_PRODUCT.items()
    }
    return Tiling(COMMON | own, partial(divide, products=products, registers=registers, carry=carry), typical)


DENSE = tiling(Product(), typical={"B": 32, "D": 1536}, registers=OTHER_REGISTERS, carry=False)  # h[t] from W h[t-1]
