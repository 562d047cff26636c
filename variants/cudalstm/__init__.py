"""cudalstm: a long short-term memory whose recurrence runs in a kernel of ours."""

from dataclasses import dataclass

from elmanctl.families import gated
from elmanctl.variant import Variant, option


@dataclass(frozen=True)
class Config(gated.Options):
    """Options of cudalstm."""

    expansion: float = option(2.0, "width of the cell over the model width")


variant = Variant(
    package=__name__,
    name="cudalstm",
    summary="long short-term memory in a persistent kernel",
    config=Config,
    rules=gated.RULES,
)
