"""E0: dense tanh recurrence with a gate chosen by an option; its early levels are presets."""

from dataclasses import dataclass

from elmanctl.families import dense
from elmanctl.families.cell import ProductOptions
from elmanctl.variant import Variant, option


@dataclass(frozen=True)
class Config(ProductOptions):
    """What gates the readout, and how the recurrent weight is kept."""

    gate: str = option(
        "input", "readout h silu(q) with q of the input or of input and h, or h alone", ("input", "x", "hx", "none")
    )
    weight: str = option(
        "normed",
        "recurrent weight: at one largest singular value, free, or a scaled orthogonal matrix",
        ("normed", "free", "orthogonal"),
    )


variant = Variant(
    package=__name__,
    name="E0",
    summary="dense tanh recurrence with a choice of gates: the early levels",
    config=Config,
    rules=dense.RULES,
    presets={"pure": {"gate": "none", "weight": "free"}, "x_gated": {"gate": "x"}, "hx": {"gate": "hx"}},
)
