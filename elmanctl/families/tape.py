"""Options, rules and tensors of the variants with a tape: slots beside a dense state, which every step reads by softmax and writes by softmax.

The kernel's half is csrc_common/elman/families/tape_recurrence.cuh, the reference's half tape_reference.py, the layer's tape_layer.py. Torch is
not imported.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from elmanctl import tiles
from elmanctl.families import cell
from elmanctl.kernel import Kernel
from elmanctl.rules import Multiple, Range, Rules
from elmanctl.tensors import cdiv
from elmanctl.tiles import BYTES, ROWS, TILE, Device, DoesNotFit, Product, Tiling
from elmanctl.variant import option, tagged

STEPS = 16  # between two saved tapes
RULES = Rules(
    sizes={
        "dim": (
            Multiple(TILE, "tiles of the kernel and of the tensor cores"),
            Multiple(128, "one alignment for every model that is compared", method=True),
        ),
        "slots": Range(1, 64, "a tape has a slot, and a block of the kernel keeps its part of all of them on the chip"),
    },
)
PRODUCTS = (Product(sums=2),)  # W_h h and W_w h, of the same h
REGISTERS = 104  # of a thread, besides matrix, operand and sums
CARRIED = 12  # pairs of numbers that a thread of several turns carries, at most
TRIP = 600  # cycles until what a warp asks for has come
DELAY = 200  # cycles after a block's barrier before it first looks for the state of the others
VECTORS = 4  # of a gate, at most
WARPS = 12  # of a block at most: with more a thread has too few registers


@dataclass(frozen=True)
class Options:
    """Options that every variant with a tape has; a variant's Config adds its own."""

    slots: int = tagged("n", 8, "slots of the tape")
    tape: str = option(
        "learned", "first value of the tape: learned, so that slots differ, or zero, as published", ("learned", "zero")
    )
    recurrence: str = cell.recurrence()


def shared_bytes(constants: Mapping[str, int], sizes: Mapping[str, int], dtype: str) -> int:
    """Return the shared memory of a block, of the pass that takes more (TapeLayout in the header; FAR says where the tapes between two saved ones are)."""
    wide, warps, turns, channels = (
        8 if dtype == "float64" else 4,
        constants["WARPS"],
        constants["TURNS"],
        constants["TILES"] * TILE,
    )
    matrix = constants["SHARED"] * warps * constants["CHUNKS"] * 64 * 8 * BYTES[dtype]
    parts = 2 * warps * channels * ROWS * wide
    tapes = 2 if constants["FAR"] else 1 + STEPS
    carried = CARRIED if turns > 1 else 0
    handed = 6 + 4 * cdiv(sizes["N"], 8) + 2 * VECTORS if turns == 1 and warps >= 4 * constants["TILES"] else 0
    return matrix + parts + channels * ROWS * (turns * (tapes * sizes["N"] + carried) + handed) * wide


def registers(constants: Mapping[str, int], N: int) -> int:
    """Return the registers of a thread besides matrix, operand and sums: more with several eights of slots, more than two tiles or several turns."""
    return REGISTERS + 12 * min(cdiv(N, 8) - 1, 2) + 32 * (constants["TILES"] > 2) + 16 * (constants["TURNS"] > 1)


def trips(constants: Mapping[str, int], sizes: Mapping[str, int]) -> int:
    """Return how often beyond once for each eight slots a warp asks for a step's shared values, of which it has a few on the way at a time."""
    joint = constants["TILES"] & -constants["TILES"]  # tiles whose parts a warp adds up before they are shared
    asked = cdiv(cdiv(sizes["D"], TILE * joint), 16 * joint) * cdiv(sizes["N"], 8)
    return constants["TURNS"] * (asked - 1)


def ring(sizes: Mapping[str, int], dtype: str) -> int:
    """Return the steps of the exchange's ring: the more, where operands of both products and sums over both tapes take no more of the L2 cache."""
    wide, rows = 8 if dtype == "float64" else 4, cdiv(sizes["B"], ROWS) * ROWS
    of_a_row = 2 * sizes["D"] * BYTES[dtype] + 16 * cdiv(sizes["N"], 8) * cdiv(sizes["D"], TILE) * wide
    return next((r for r in tiles.RINGS if r * rows * of_a_row <= tiles.RING_BYTES), tiles.RINGS[-1])


def choose(sizes: Mapping[str, int], dtype: str, device: Device | None) -> dict[str, int]:
    """Return the division: the fastest one that leaves room for the tape beside the matrices.

    Raises:
        DoesNotFit: where there is none.
    """
    if device is None:
        # By B, so that helpers and neither, and tapes in both places, are verified.
        found = tiles.divide(sizes, dtype, None, PRODUCTS, REGISTERS, carry=True) | {"DELAY": 0, "FAR": 0}
        if found["TURNS"] == 1 and sizes["B"] % 2:
            found["WARPS"] = 4 * found["TILES"]
        limit = max(d.shared_bytes for d in tiles.DEVICES.values())
        far = sizes["B"] % 4 in (1, 2) or shared_bytes(found, sizes, dtype) > limit
        return found | {"FAR": int(far)}
    found = [
        (d.cycles + trips(d.constants, sizes) * TRIP, constants["FAR"], constants)
        for needed in sorted({registers({"TILES": m, "TURNS": t}, sizes["N"]) for m in (1, 3) for t in (1, 2)})
        for d in tiles.divisions(sizes, dtype, device, PRODUCTS, needed, carry=True)
        for constants in (d.constants | {"DELAY": DELAY, "FAR": far, "RING": ring(sizes, dtype)} for far in (0, 1))
        if constants["WARPS"] <= WARPS and registers(constants, sizes["N"]) == needed
        if shared_bytes(constants, sizes, dtype) <= device.shared_bytes
    ]
    if not found:
        raise DoesNotFit(
            f"D={sizes['D']}, N={sizes['N']}, B={sizes['B']} in {dtype}: two matrices of {sizes['D']} rows and the tapes do not fit the registers and "
            f"shared memory of {device.multiprocessors} multiprocessors, where the persistent kernel keeps them. Fewer slots or rows take less "
            "room. The option recurrence=cublas takes library products in each step instead, at any size."
        )
    return min(found, key=lambda d: d[:2])[2]


PLACE = {"FAR": "1 where the backward pass keeps the tapes between two saved ones in global memory, 0 in shared memory"}
TILING = Tiling(tiles.COMMON | tiles.OF_A_PRODUCT | PLACE, choose, {"B": 32, "D": 1024})


def kernel(package: str, vectors: int = 0) -> Kernel:
    """Return the declaration of a tape recurrence's tensors.

    Args:
        package: `__package__` of the variant's binding.py.
        vectors: how many vectors [D] the score of the readout's gate takes.
    """
    summed = {"gate": f"{vectors} D"} if vectors else {}
    partials = "32*cdiv(B,8)+RING*cdiv(B,8)*8*16*cdiv(N,8)*cdiv(D,16) @acc"
    return Kernel(
        package=package,
        inputs={
            "xz": "B T 2*D",
            "W": "2*D D",
            "h0": "B D @acc",
            "tape0": "B N D @acc",
            **{name: f"{shape} @acc" for name, shape in summed.items()},
        },
        outputs={"y": "B T D", "h_last": "B D @acc", "tape_last": "B N D @acc"},
        saved={"h": "B T D @acc", "w": "B T D @acc", "kept": "B T+1 3*N @acc", "tapes": "B cdiv(T,K) N D @acc"},
        scratch={"exchange": "RING*8*cdiv(B,8)*D", "partials": partials},
        backward_scratch={
            "exchange": "RING*8*cdiv(B,8)*2*D",
            "partials": partials,
            "history": "B FAR*K N D @acc",
        },
        backward_outputs={
            "d_sums": "B T+1 2*D",
            "former": "B T+1 D",
            **{f"{name}_part": f"B {shape} @acc" for name, shape in summed.items()},
        },
        constants={
            "CUBLAS": "1 for cuBLAS products in each step in place of the kernel",
            "N": "slots of the tape",
            "K": "steps between two saved tapes",
        },
        torch_gradients=("W", *summed),
        after_backward="weight_gradients",
        rounds={"h_operand": "forward", "d_pre": "backward", "d_w": "backward"},
        # A state is T sums over D and N; a weight's gradient sums B T products of such.
        terms={"*": "T*(D+N)", "W": "B*T*D", **dict.fromkeys(summed, "B*T")},
        budgets={"registers": 255, "spill_bytes": 0, "shared_bytes": 4096},
        work={"forward": "B*T*D*(4*D+12*N)", "backward": "B*T*D*(8*D+30*N)"},
        rivals=("cublas_loop",),
        tiling=TILING,
    )


def constants(config: Options) -> dict[str, int]:
    """Return the compile-time constants that depend on options."""
    return {"CUBLAS": int(config.recurrence == "cublas"), "N": config.slots, "K": STEPS}
