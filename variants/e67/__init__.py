"""E67: gated recurrence whose state enters the gate through a diagonal."""

from elmanctl.families import pointwise
from elmanctl.variant import Variant

variant = Variant(
    package=__name__,
    name="E67",
    summary="gated recurrence whose gate sees a diagonal of the state",
    config=pointwise.Options,
    rules=pointwise.RULES,
)
