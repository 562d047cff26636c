"""E33: dense tanh recurrence, self-gated."""

from elmanctl.families import dense
from elmanctl.variant import Variant

variant = Variant(
    package=__name__,
    name="E33",
    summary="dense tanh recurrence, self-gated",
    config=dense.Options,
    rules=dense.RULES,
)
