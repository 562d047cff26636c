"""E64: gated tanh recurrence whose state enters the candidate as it is."""

from elmanctl.families import pointwise
from elmanctl.variant import Variant

variant = Variant(
    package=__name__,
    name="E64",
    summary="gated recurrence, tanh candidate to which the state is added",
    config=pointwise.Options,
    rules=pointwise.RULES,
)
