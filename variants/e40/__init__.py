"""E40: dense tanh recurrence on the unactivated input, self-gated."""

from elmanctl.families import dense
from elmanctl.variant import Variant

variant = Variant(
    package=__name__,
    name="E40",
    summary="dense tanh recurrence on the unactivated input, self-gated",
    config=dense.Options,
    rules=dense.RULES,
)
