"""E61: state that forgets by a gate of the input and takes a linear value."""

from dataclasses import dataclass

from elmanctl.families import pointwise
from elmanctl.variant import Variant, option


@dataclass(frozen=True)
class Config(pointwise.Options):
    """Options of E61."""

    form: str = option(
        "mix", "mix; sum: the value is added whole; shared: one projection for gate and value", ("mix", "sum", "shared")
    )


variant = Variant(
    package=__name__,
    name="E61",
    summary="linear recurrence with a gate of the input, self-gated",
    config=Config,
    rules=pointwise.RULES,
    aliases={"E62c": "E61:form=shared"},
    presets={"E61b": {"form": "sum"}, "E61c": {"form": "shared"}},
)
