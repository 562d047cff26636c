"""E34: tanh recurrence with a diagonal of the state, self-gated."""

from elmanctl.families import pointwise
from elmanctl.variant import Variant

variant = Variant(
    package=__name__,
    name="E34",
    summary="tanh recurrence with a diagonal of the state, self-gated",
    config=pointwise.Options,
    rules=pointwise.RULES,
)
