"""A leaky integrator with an optional tanh: the smallest variant that has every part verify looks at."""

from dataclasses import dataclass

from elmanctl.rules import Multiple, Rules
from elmanctl.variant import Variant, option


@dataclass(frozen=True)
class Config:
    """Options of the integrator."""

    bounded: bool = option(False, "tanh on the state")


variant = Variant(
    package=__name__,
    name="Integrator",
    summary="leaky integrator for tests",
    config=Config,
    rules=Rules(sizes={"dim": Multiple(16, "the tests' rule")}),
)
