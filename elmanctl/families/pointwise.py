"""Options, rules and tensors of the variants on the pointwise family: h[t] = update(h[t-1], in[t], vec), y[t] = readout(h[t], in[t], vec).

No product crosses channels, so that each channel is a recurrence of its own. The kernel's half is
csrc_common/elman/families/pointwise_recurrence.cuh, the reference's half pointwise_reference.py, the layer's pointwise_layer.py. Torch is not
imported.
"""

from collections.abc import Iterable, Mapping

from elmanctl.families.cell import CellOptions
from elmanctl.kernel import Kernel
from elmanctl.rules import Multiple, Range, Rules, inner_multiple

Options = CellOptions  # a variant's Config adds its own
RULES = Rules(
    sizes={
        "dim": (
            Multiple(8, "16 bytes of bf16, the unit of the kernel's copies and of the products around it"),
            Multiple(128, "one alignment for every model that is compared", method=True),
        ),
        "expansion": Range(0.125, 8.0, "a cell of the model's order of width"),
    },
    combinations=(("a copy of the kernel is 8 channels wide", inner_multiple(8)),),
)

# What a thread of the kernel does, for every variant: docs/performance.md says where the numbers come from.
DIVISION = {"CHANNELS": 1, "WARPS": 4, "FLIGHT": 4}
CONSTANTS = {
    "CHANNELS": "neighbouring channels of a thread, 1 or 2",
    "WARPS": "warps of a block, which walk over time together",
    "FLIGHT": "KiB of inputs that a warp keeps on the way",
}


def kernel(
    package: str,
    projections: int | str,
    vectors: Iterable[str] = (),
    *,
    inputs: Iterable[str] = (),
    biased: bool = True,
    constants: Mapping[str, str] | None = None,
    tanh: bool = False,
    flops: tuple[int, int],
) -> Kernel:
    """Return the declaration of a pointwise recurrence's tensors.

    Args:
        package: `__package__` of the variant's binding.py.
        projections: how many inputs over time there are, a number or the constant that holds it; `proj` has them side by side, as one product
            leaves them.
        vectors: names of the vectors [D].
        inputs: names of the inputs over time where they are tensors of their own, [B, T, D] each, in place of `proj`.
        biased: whether the kernel adds a bias [D] to each input.
        constants: the variant's own compile-time constants, name -> meaning.
        tanh: whether a step has a tanh, whose bf16 build has a bounded absolute error (the rounding point `tanh`).
        flops: floating-point operations of an element and step, forward and backward; an elementary function counts as one.
    """
    wide = "D" if projections == 1 else f"{projections}*D"
    over_time = dict.fromkeys(inputs, "B T D") or {"proj": f"B T {wide}"}
    summed = ({"bias": wide} if biased else {}) | dict.fromkeys(vectors, "D")
    forward, backward = flops
    return Kernel(
        package=package,
        inputs={**over_time, **{name: f"{shape} @acc" for name, shape in summed.items()}, "h0": "B D @acc"},
        outputs={"y": "B T D", "h_last": "B D @acc"},
        saved={"h": "B T+1 D @acc"},
        backward_outputs={f"{name}_part": f"B {shape} @acc" for name, shape in summed.items()},
        constants=CONSTANTS | dict(constants or {}),
        torch_gradients=tuple(summed),
        after_backward="weight_gradients" if summed else None,
        rounds={"tanh": "absolute 2e-7"} if tanh else {},
        terms={"*": "T", **dict.fromkeys(summed, "B*T")},
        # 168 registers leave 12 warps a multiprocessor, which keep 48 KiB on the way: more than memory needs (docs/performance.md).
        budgets={"registers": 168, "spill_bytes": 0, "shared_bytes": 0},
        work={"forward": f"{forward}*B*T*D", "backward": f"{backward}*B*T*D"},
    )


def constants(config: object) -> dict[str, int]:
    """Return the compile-time constants of a variant that has none of its own."""
    return dict(DIVISION)
