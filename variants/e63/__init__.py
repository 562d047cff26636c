"""E63: a gated blend of the state with a tanh of a dense product of it, in four forms."""

from dataclasses import dataclass

from elmanctl.families import gated
from elmanctl.variant import Variant, option


@dataclass(frozen=True)
class Config(gated.Options):
    """Options of E63."""

    form: str = option("a", "how state and candidate are weighted, README.md equations 2a to 2d", ("a", "b", "c", "d"))


variant = Variant(
    package=__name__,
    name="E63",
    summary="gated blend of the state with a tanh of a dense product of it",
    config=Config,
    rules=gated.RULES,
    aliases={"E63a": "E63"},
    presets={"E63b": {"form": "b"}, "E63c": {"form": "c"}, "E63d": {"form": "d"}},
)
