"""A gated recurrence with a weight, a decay and a read-out cache: every place where a historic mistake of this field can be planted."""

from dataclasses import dataclass

from elmanctl.rules import Multiple, Rules
from elmanctl.variant import Variant, tagged


@dataclass(frozen=True)
class Config:
    """Options of the cell."""

    n: int = tagged("n", 4, "width of a head")


variant = Variant(
    package=__name__,
    name="Cell",
    summary="gated cell for tests",
    config=Config,
    rules=Rules(sizes={"dim": Multiple(16, "the tests' rule")}),
)
