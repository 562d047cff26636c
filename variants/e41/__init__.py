"""E41: dense tanh recurrence with a diagonal input weight, self-gated."""

from elmanctl.families import dense
from elmanctl.variant import Variant

variant = Variant(
    package=__name__,
    name="E41",
    summary="dense tanh recurrence with a diagonal input weight, self-gated",
    config=dense.Options,
    rules=dense.RULES,
)
