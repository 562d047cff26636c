"""E66: a gated blend of the state with a tanh of a product of low rank of it."""

from dataclasses import dataclass

from elmanctl.families import gated
from elmanctl.variant import Variant, option


@dataclass(frozen=True)
class Config(gated.Options):
    """Options of E66."""

    rank: int = option(0, "rank of the recurrence; 0: a quarter of the cell's width, at least 16")


variant = Variant(
    package=__name__,
    name="E66",
    summary="gated blend of the state with a tanh of a product of low rank of it",
    config=Config,
    rules=gated.LOW_RANK_RULES,
)
