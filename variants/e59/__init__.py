"""E59: a linear residual step of the state, brought back to unit size after each."""

from dataclasses import dataclass

from elmanctl.families import pointwise
from elmanctl.variant import Variant, option


@dataclass(frozen=True)
class Config(pointwise.Options):
    """Options of E59."""

    gated: bool = option(False, "the step's size from the input, channel by channel, in place of one number")


variant = Variant(
    package=__name__,
    name="E59",
    summary="state that adds a step of the input and is normalised after each, self-gated",
    config=Config,
    rules=pointwise.RULES,
    presets={"E59b": {"gated": True}},
)
