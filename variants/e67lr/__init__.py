"""E67lr: a blend whose gate sees the state through a product of low rank."""

from dataclasses import dataclass

from elmanctl.families import gated
from elmanctl.variant import Variant, option


@dataclass(frozen=True)
class Config(gated.Options):
    """Options of E67lr."""

    rank: int = option(0, "rank of the recurrence; 0: an eighth of the width of the cell, at least 8")


variant = Variant(
    package=__name__,
    name="E67lr",
    summary="blend of state and input whose gate sees the state at low rank",
    config=Config,
    rules=gated.LOW_RANK_RULES,
)
