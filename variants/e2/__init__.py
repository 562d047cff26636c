"""E2: several cells side by side, the slots, each with an input weight of its own."""

from dataclasses import dataclass, replace

from elmanctl.families import dense
from elmanctl.rules import Range
from elmanctl.variant import Variant, option, tagged


@dataclass(frozen=True)
class Config(dense.Options):
    """How many slots, and what their states meet: a weight that all share, one of their own, or themselves channel by channel."""

    slots: int = tagged("s", 8, "states beside each other, each with an input weight of its own")
    independent: bool = option(False, "a recurrent weight for each slot, in place of one that all share")
    diagonal: bool = option(
        False, "the first version: linear states with a decay for each slot and channel, without a product"
    )


def _no_product(config, dim: int | None) -> str | None:
    if not config.diagonal or not (config.independent or not config.spectral_norm or config.recurrence != "kernel"):
        return None
    return "diagonal=true has no recurrent weight: independent, spectral_norm and recurrence stay at their defaults with it"


variant = Variant(
    package=__name__,
    name="E2",
    summary="tanh states in slots with input weights of their own, summed and gated by an input branch",
    config=Config,
    rules=replace(
        dense.RULES,
        sizes={**dense.RULES.sizes, "slots": Range(1, None, "a layer has at least one slot")},
        combinations=(*dense.RULES.combinations, ("an option says what it changes", _no_product)),
    ),
    presets={"E2d": {"diagonal": True}},
)
