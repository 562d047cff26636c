"""diagonal: recurrence whose state meets itself only, channel by channel, gated by its input."""

from dataclasses import dataclass

from elmanctl.families import pointwise
from elmanctl.variant import Variant, option


@dataclass(frozen=True)
class Config(pointwise.Options):
    """Options of the diagonal recurrence."""

    activation: str = option("linear", "of the state: none, or tanh", ("linear", "tanh"))


variant = Variant(
    package=__name__,
    name="diagonal",
    summary="linear recurrence with a diagonal of the state, gated by its input",
    config=Config,
    rules=pointwise.RULES,
)
