"""Options, rules and tensors of the variants with one square matrix state, raw vectors from one projection and a readout that gates itself.

S[t] = step(S[t-1]; k[t], v[t], ...),   r[t] = S[t] q[t],   y[t] = r[t]^2 sigmoid(r[t])

* The kernel's half is csrc_common/elman/families/matrix_state/steps.cuh, the reference's matrix_reference.py, the layer's matrix_layer.py. Torch is
  not imported.
* Kernels take any number of heads H; a layer has one.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from elmanctl.kernel import Kernel
from elmanctl.rules import Multiple, OneOf, Range, Rules, inner_multiple
from elmanctl.spread import MATRIX, STEPS
from elmanctl.variant import option, tagged

SIZES = tuple(range(8, 97, 8))
SHARED = 32  # sides up to which a chunk's states fit in shared memory, in fp64 too
VERIFIED_HEADS = 2  # in verify: default states are large, and a second head shows what a third would

RULES = Rules(
    sizes={
        "n_state": (
            Multiple(8, "one 16-byte row of bf16"),
            OneOf(SIZES, "a block's registers hold state and gradient in these sizes"),
        ),
        "dim": (
            Multiple(16, "one tensor-core tile of the projections"),
            Multiple(128, "tensor-core tiles of every projection at full rate", method=True),
        ),
        "expansion": Range(0.125, 8.0, "an inner width of the model's order"),
    },
    combinations=(("one tensor-core tile of the projections is 16 wide", inner_multiple(16)),),
)


@dataclass(frozen=True)
class Options:
    """Options that every such variant has; a variant's Config adds its own."""

    n_state: int = tagged("n", 64, "rows and columns of the state")
    expansion: float = option(1.0, "inner width over model width")
    conv: bool = option(False, "a causal convolution over four steps, channel by channel, before silu")


def kernel(
    package: str,
    vectors: int,
    parameters: Iterable[str] = (),
    numbers: Iterable[str] = (),
    columns: str = "0",
    operations: int = 7,
    more_constants: Mapping[str, str] | None = None,
    **more,
) -> Kernel:
    """Return the declaration of such a kernel's tensors.

    Args:
        package: `__package__` of the variant's binding.py.
        vectors: raw vectors of a step in `projected`: q, k, v and the variant's own.
        parameters: inputs [H, N] that have a number for each value row; the kernel sums their gradients over time into `parameter_parts`, in
            this order.
        numbers: inputs [H], likewise each into `<name>_part` [B, H].
        columns: further vectors over keys in a record besides q and k, an expression of constants.
        operations: floating-point operations of a forward step for each element of the state.
        more_constants: compile-time integers besides those of all, name -> meaning.
        more: further arguments of Kernel, as `rounds` and `budgets`.
    """
    parameters, numbers = tuple(parameters), tuple(numbers)
    parts = {"parameter_parts": f"B H {len(parameters)} N @acc"} if parameters else {}
    summed = parameters + numbers
    return Kernel(
        package=package,
        inputs={
            "projected": f"B T {vectors}*H*N",
            **dict.fromkeys(parameters, "H N @acc"),
            **dict.fromkeys(numbers, "H @acc"),
            "s0": "B H N N @acc",
        },
        outputs={"y": "B T H*N", "s_last": "B H N N @acc"},
        saved={"slots": "B H cdiv(T,K) N N @acc", "readout": "B T H*N @acc"},
        backward_scratch={
            "history": "B H K+1 N N @acc ?GLOBAL_HISTORY",
            "partial": f"B H 2*K 16 (2+{columns})*N @acc ?GLOBAL_HISTORY",
        },
        backward_outputs=parts | {f"{name}_part": "B H @acc" for name in numbers},
        constants={
            "N": "rows and columns of a state",
            "K": "steps between two saved states",
            "GLOBAL_HISTORY": "1: a chunk's states go to global memory, since they do not fit on the chip",
            **(more_constants or {}),
        },
        torch_gradients=summed,
        after_backward="weight_gradients" if summed else None,
        # A state sums T writes of sums over N; a gradient also sums over its rows; a parameter over the batch and time besides.
        terms={
            "y": "T*N",
            "s_last": "T*N",
            "*": "2*T*N",
            **dict.fromkeys(parameters, "B*T*N"),
            **dict.fromkeys(numbers, "B*T*N*N"),
        },
        work={"forward": f"{operations}*B*T*H*N*N", "backward": f"{3 * operations}*B*T*H*N*N"},
        rivals=("fla_gated_delta", "mamba_scan"),
        tiling=MATRIX,
        **more,
    )


def constants(config: Options) -> dict[str, int]:
    """Return the compile-time constants that every such kernel has."""
    return {"N": config.n_state, "K": STEPS, "GLOBAL_HISTORY": int(config.n_state > SHARED)}


def verify_sizes(config: Options) -> dict[str, int]:
    """Return the sizes besides batch, time and width that verify uses."""
    return {"H": VERIFIED_HEADS}
