"""E62: state that takes a tanh value by a gate of the input."""

from dataclasses import dataclass

from elmanctl.families import pointwise
from elmanctl.variant import Variant, option


@dataclass(frozen=True)
class Config(pointwise.Options):
    """Options of E62."""

    form: str = option("mix", "mix; decay: what is not overwritten decays by a second gate", ("mix", "decay"))


variant = Variant(
    package=__name__,
    name="E62",
    summary="selective write: a gate of the input decides how much of a tanh value is taken",
    config=Config,
    rules=pointwise.RULES,
    presets={"E62b": {"form": "decay"}},
)
