"""E70: linear matrix state with one decay, written by outer products, self-gated readout."""

from dataclasses import dataclass

from elmanctl.families import matrix
from elmanctl.variant import Variant, option


@dataclass(frozen=True)
class Config(matrix.Options):
    """Options of E70."""

    decay: str = option(
        "trained", "whether the decay is a parameter or stays at its first value", ("trained", "constant")
    )
    spectral_norm: bool = option(True, "scale W_k and W_v to a largest singular value of 0.5")


variant = Variant(
    package=__name__,
    name="E70",
    summary="linear matrix state with one decay, written by outer products, self-gated",
    config=Config,
    rules=matrix.RULES,
)
