"""E36: dense linear recurrence, self-gated."""

from elmanctl.families import dense
from elmanctl.variant import Variant

variant = Variant(
    package=__name__,
    name="E36",
    summary="dense linear recurrence, self-gated",
    config=dense.Options,
    rules=dense.RULES,
)
