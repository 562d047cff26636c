"""E38: dense tanh recurrence without an input weight, self-gated."""

from elmanctl.families import dense
from elmanctl.variant import Variant

variant = Variant(
    package=__name__,
    name="E38",
    summary="dense tanh recurrence without an input weight, self-gated",
    config=dense.Options,
    rules=dense.RULES,
)
