"""Options, rules and tensors of the variants whose cells have gates: pre[i] = wx[i] (+ a row of W h[t-1], or of U V h[t-1]), then elementwise.

The kernel's half is csrc_common/elman/families/gated_recurrence.cuh, the reference's half gated_reference.py. Torch is not imported.
"""

from collections.abc import Iterable

from elmanctl.families import dense
from elmanctl.families.cell import ProductOptions
from elmanctl.kernel import Kernel
from elmanctl.rules import Range, Rules, inner_width
from elmanctl.tiles import Product, Tiling, tiling

Options = ProductOptions  # a variant's Config adds its own
RULES = dense.RULES


def _too_high(config, dim: int | None) -> str | None:
    width = inner_width(dim, config.expansion) if dim else config.rank
    return f"rank={config.rank} is above the cell's width {width}" if config.rank > width else None


LOW_RANK_RULES = Rules(
    sizes={**RULES.sizes, "rank": Range(0, None, "columns of U and rows of V")},
    combinations=(*RULES.combinations, ("a product of low rank has at most the width's", _too_high)),
)
REGISTERS = 72  # of a thread, besides matrices, operand and sums: several inputs, slopes and what is kept


def square(sums: int | str, width: int) -> Tiling:
    """Return the tiling of one product W h, `sums` rows of W for each channel; `width` is a typical one."""
    return tiling(Product(sums=sums), typical={"B": 32, "D": width}, registers=REGISTERS)


def low_rank(width: int, rank: int) -> Tiling:
    """Return the tiling of two products U (V h)."""
    products = Product("V_", "R", "D"), Product("", "D", "R")
    return tiling(*products, typical={"B": 32, "D": width, "R": rank}, registers=REGISTERS)


def kernel(
    package: str,
    inputs: int | str,
    kept: int | str,
    division: Tiling,
    sums: int | str = 1,
    local: bool = False,
    gates: Iterable[str] = (),
    constants: dict[str, str] | None = None,
) -> Kernel:
    """Return the declaration of a gated recurrence's tensors.

    Args:
        package: `__package__` of the variant's binding.py.
        inputs, kept, sums: of a channel, as the C++ Cell has them; a number, or the name of a constant.
        division: `square(...)` or `low_rank(...)`.
        local: whether the state is a vector besides h.
        gates: names of the inputs of the readout besides h, each [B, T, D].
        constants: further compile-time constants, name -> meaning.
    """
    factored = "V_CHUNKS" in division.constants
    state = {"s0": "B D @acc"} if local else {}
    matrices = {"U": "D R", "V": "R D"} if factored else {"W": f"{sums}*D D"}
    width = "(D+R)" if factored else f"{sums}*D"
    # Operations of one product in both directions of time and its gradient's; of the factors together.
    product = "4*B*T*D*R" if factored else f"2*B*T*{sums}*D*D"
    return Kernel(
        package=package,
        inputs={"wx": f"B T {inputs}*D", **dict.fromkeys(gates, "B T D"), **matrices, "h0": "B D @acc", **state},
        outputs={"y": "B T D", "h_last": "B D @acc", **({"s_last": "B D @acc"} if local else {})},
        saved={"kept": f"B T {kept}*D @acc", **({"m": "B T R"} if factored else {})},
        scratch={"exchange": "RING*8*cdiv(B,8)*" + ("(D+R)" if factored else "D")},
        backward_scratch={"exchange": f"RING*8*cdiv(B,8)*{width}"},
        backward_outputs={"former": "B T D", **({"d_m": "B T R"} if factored else {})},
        constants={"CUBLAS": "1 for cuBLAS products in each step in place of the kernel", **(constants or {})},
        torch_gradients=tuple(matrices),
        after_backward="weight_gradients",
        rounds={"h_operand": "forward", "d_pre": "backward", **({"m_operand": "both"} if factored else {})},
        # A state is T sums over D; the gradient of a matrix sums B T products of such.
        terms={"*": "T*D", **dict.fromkeys(matrices, "B*T*D")},
        budgets={"registers": 255, "spill_bytes": 0, "shared_bytes": 4096},
        work={"forward": product, "backward": f"2*{product}"},
        rivals=("cublas_loop",),
        tiling=division,
    )


def constants(config: Options) -> dict[str, int]:
    """Return the compile-time constants that depend on options."""
    return {"CUBLAS": int(config.recurrence == "cublas")}
