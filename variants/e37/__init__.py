"""E37: tanh recurrence that shares its weight with the input, self-gated."""

from elmanctl.families import dense
from elmanctl.variant import Variant

variant = Variant(
    package=__name__,
    name="E37",
    summary="tanh recurrence that shares its weight with the input, self-gated",
    config=dense.Options,
    rules=dense.RULES,
    aliases={"E37v2": "E37"},
)
