"""E35: dense tanh recurrence, read out as its cube."""

from elmanctl.families import dense
from elmanctl.variant import Variant

variant = Variant(
    package=__name__,
    name="E35",
    summary="dense tanh recurrence, read out as its cube",
    config=dense.Options,
    rules=dense.RULES,
)
