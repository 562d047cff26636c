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
REGISTERS = 96  # of a thread, besides matrix, operand and sums
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
    """Return the shared memory of a block of the backward pass, which takes more than the forward pass (TapeLayout in the header)."""
    wide, N = 8 if dtype == "float64" else 4, sizes["N"]
    warps, turns, channels = constants["WARPS"], constants["TURNS"], constants["TILES"] * TILE
    matrix = constants["SHARED"] * warps * constants["CHUNKS"] * 64 * 8 * BYTES[dtype]
    parts = 2 * warps * channels * ROWS * wide
    values = (2 * N + 1) * ROWS * (constants["TILES"] + 2) * wide
    return matrix + parts + values + turns * channels * ROWS * (2 * N + 8) * wide


def choose(sizes: Mapping[str, int], dtype: str, device: Device | None) -> dict[str, int]:
    """Return the division: the fastest one that leaves room for the tape beside the matrices.

    Raises:
        DoesNotFit: where there is none.
    """
    if device is None:
        return tiles.divide(sizes, dtype, None, PRODUCTS, REGISTERS, carry=True)
    found = [
        d
        for d in tiles.divisions(sizes, dtype, device, PRODUCTS, REGISTERS, carry=True)
        if d.constants["WARPS"] <= WARPS and shared_bytes(d.constants, sizes, dtype) <= device.shared_bytes
    ]
    if not found:
        raise DoesNotFit(
            f"D={sizes['D']}, N={sizes['N']}, B={sizes['B']} in {dtype}: two matrices of {sizes['D']} rows and the tapes do not fit the registers and "
            f"shared memory of {device.multiprocessors} multiprocessors, where the persistent kernel keeps them. Fewer slots or rows take less "
            "room. The option recurrence=cublas takes library products in each step instead, at any size."
        )
    return min(found, key=lambda d: d.cycles).constants


TILING = Tiling(tiles.COMMON | tiles.OF_A_PRODUCT, choose, {"B": 32, "D": 1024})


def kernel(package: str, vectors: int = 0) -> Kernel:
    """Return the declaration of a tape recurrence's tensors.

    Args:
        package: `__package__` of the variant's binding.py.
        vectors: how many vectors [D] the score of the readout's gate takes.
    """
    summed = {"gate": f"{vectors} D"} if vectors else {}
    words = "RING*cdiv(B,8)*8*(2*N+{})*cdiv(D,16*TILES)"
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
        scratch={"exchange": "RING*8*cdiv(B,8)*D", "partials": words.format(1) + " @acc"},
        backward_scratch={
            "exchange": "RING*8*cdiv(B,8)*2*D",
            "partials": words.format(0) + " @acc",
            "history": "B K N D @acc",
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
