"""E65: gated tanh recurrence whose state enters the candidate through a diagonal."""

from elmanctl.families import pointwise
from elmanctl.variant import Variant

variant = Variant(
    package=__name__,
    name="E65",
    summary="gated recurrence, tanh candidate with a diagonal of the state",
    config=pointwise.Options,
    rules=pointwise.RULES,
)
