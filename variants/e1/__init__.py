"""E1: dense tanh recurrence with a gate of its own input branch."""

from elmanctl.families import dense
from elmanctl.variant import Variant

variant = Variant(
    package=__name__,
    name="E1",
    summary="dense tanh recurrence with a gate of its own input branch",
    config=dense.Options,
    rules=dense.RULES,
)
