"""Blank: one tanh recurrence per channel, a start for a variant of your own."""

from dataclasses import dataclass

from elmanctl.rules import Multiple, Rules
from elmanctl.variant import Variant, option


@dataclass(frozen=True)
class Config:
    """Options. `tagged("n", 32, "meaning")` would declare one that is spelled in the name."""

    linear: bool = option(False, "leave out the tanh")


variant = Variant(
    package=__name__,
    name="Blank",
    summary="one tanh recurrence per channel",
    config=Config,
    rules=Rules(
        sizes={
            "dim": (
                Multiple(16, "tensor-core tiles of the projections"),
                Multiple(128, "one alignment for every model that is compared", method=True),
            )
        }
    ),
)
