"""E68: gated recurrence whose state decides what is written."""

from dataclasses import dataclass

from elmanctl.families import pointwise
from elmanctl.variant import Variant, option


@dataclass(frozen=True)
class Config(pointwise.Options):
    """Options of E68."""

    inhibit: bool = option(False, "a large state, of either sign, closes the write gate")


variant = Variant(
    package=__name__,
    name="E68",
    summary="gated recurrence whose state gates the value that is written",
    config=Config,
    rules=pointwise.RULES,
    presets={"E68i": {"inhibit": True}},
)
