"""cudagru: a gated recurrent unit that resets the state before the candidate's product, in a kernel of ours."""

from dataclasses import dataclass

from elmanctl.families import gated
from elmanctl.variant import Variant, option


@dataclass(frozen=True)
class Config(gated.Options):
    """Options of cudagru."""

    expansion: float = option(2.0, "width of the cell over the model width")


variant = Variant(
    package=__name__,
    name="cudagru",
    summary="gated recurrent unit, reset before the product, in a persistent kernel",
    config=Config,
    rules=gated.RULES,
)
