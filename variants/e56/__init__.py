"""E56: E1's recurrence with one weight over the concatenated input and state."""

from elmanctl.families import dense
from elmanctl.families.cell import ProductOptions
from elmanctl.variant import Variant

variant = Variant(
    package=__name__,
    name="E56",
    summary="tanh recurrence with one weight over [input, state], gated by its own input branch",
    config=ProductOptions,
    rules=dense.RULES,
)
