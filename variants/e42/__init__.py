"""E42: linear recurrence that shares its weight with the input, self-gated."""

from elmanctl.families import dense
from elmanctl.variant import Variant

variant = Variant(
    package=__name__,
    name="E42",
    summary="linear recurrence that shares its weight with the input, self-gated",
    config=dense.Options,
    rules=dense.RULES,
)
