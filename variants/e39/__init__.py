"""E39: dense tanh recurrence without input weight or bias, self-gated."""

from elmanctl.families import dense
from elmanctl.variant import Variant

variant = Variant(
    package=__name__,
    name="E39",
    summary="dense tanh recurrence without input weight or bias, self-gated",
    config=dense.Options,
    rules=dense.RULES,
)
