"""Options, rules and tensors of the variants on the dense family: h[t] = phi(wx[t] + W h[t-1]), y[t] = readout(h[t], gates[t]).

The kernel's half is csrc_common/elman/families/dense_recurrence.cuh, the reference's half dense_reference.py. Torch is not imported.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from elmanctl.families.cell import ProductOptions
from elmanctl.kernel import Kernel
from elmanctl.rules import Multiple, Range, Rules, inner_multiple
from elmanctl.tiles import DENSE
from elmanctl.variant import option

RULES = Rules(
    sizes={
        "dim": (
            Multiple(16, "tiles of the kernel and of the tensor cores"),
            Multiple(128, "one alignment for every model that is compared", method=True),
        ),
        "expansion": Range(0.125, 8.0, "a cell of the model's order of width"),
    },
    combinations=(("a tile of the kernel is 16 wide", inner_multiple(16)),),
)


@dataclass(frozen=True)
class Options(ProductOptions):
    """Options of a variant whose recurrent weight may be normalised."""

    spectral_norm: bool = option(True, "keep the largest singular value of the recurrent weight below 1")


def kernel(package: str, gates: Iterable[str] = (), constants: Mapping[str, str] | None = None) -> Kernel:
    """Return the declaration of a dense recurrence's tensors.

    Args:
        package: `__package__` of the variant's binding.py.
        gates: names of the inputs of the readout besides h, each [B, T, D]; `q ?GATE` is one that exists where the constant GATE is not 0.
        constants: the variant's own compile-time constants, name -> meaning.
    """
    return Kernel(
        package=package,
        inputs={"wx": "B T D", **dict(map(_gate, gates)), "W": "D D", "h0": "B D @acc"},
        outputs={"y": "B T D", "h_last": "B D @acc"},
        saved={"h": "B T D @acc"},
        scratch={"exchange": "RING*8*cdiv(B,8)*D"},
        backward_scratch={"exchange": "RING*8*cdiv(B,8)*D"},
        backward_outputs={"former": "B T D"},
        constants={"CUBLAS": "1 for one cuBLAS product a step in place of the kernel", **(constants or {})},
        torch_gradients=("W",),
        after_backward="weight_gradients",
        rounds={"h_operand": "forward", "d_pre": "backward"},
        # A state is T sums over D; the gradient of W sums B T products of such.
        terms={"*": "T*D", "W": "B*T*D"},
        budgets={"registers": 255, "spill_bytes": 0, "shared_bytes": 4096},
        work={"forward": "2*B*T*D*D", "backward": "4*B*T*D*D"},
        rivals=("cudnn_rnn", "cublas_loop", "flashrnn"),
        tiling=DENSE,
    )


def _gate(text: str) -> tuple[str, str]:
    name, _, condition = text.partition(" ")
    return name, f"B T D {condition}".strip()


def constants(config: ProductOptions) -> dict[str, int]:
    """Return the compile-time constants that depend on options."""
    return {"CUBLAS": int(config.recurrence == "cublas")}
