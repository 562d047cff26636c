"""E2: several E1 cells side by side, the slots, each with an input weight of its own."""

from dataclasses import dataclass, replace

from elmanctl.families import dense
from elmanctl.rules import Range
from elmanctl.variant import Variant, option, tagged


@dataclass(frozen=True)
class Config(dense.Options):
    """How many slots, and whether they share their recurrent weight."""

    slots: int = tagged("s", 8, "states beside each other, each with an input weight of its own")
    independent: bool = option(False, "a recurrent weight for each slot, in place of one that all share")


variant = Variant(
    package=__name__,
    name="E2",
    summary="tanh states in slots with input weights of their own, summed and gated by an input branch",
    config=Config,
    rules=replace(dense.RULES, sizes={**dense.RULES.sizes, "slots": Range(1, None, "a layer has at least one slot")}),
)
