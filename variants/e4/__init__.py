"""E4: dense tanh recurrence of low rank, gated by its own input branch."""

from dataclasses import dataclass

from elmanctl.families import gated
from elmanctl.variant import Variant, option


@dataclass(frozen=True)
class Config(gated.Options):
    """Options of E4."""

    rank: int = option(0, "rank of the recurrence; 0: the model width over twice the expansion, at least 16")
    spectral_norm: bool = option(True, "keep the largest singular value of the product U V at 0.95")


variant = Variant(
    package=__name__,
    name="E4",
    summary="tanh recurrence of low rank, gated by its own input branch",
    config=Config,
    rules=gated.LOW_RANK_RULES,
)
