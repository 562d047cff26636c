"""E72: linear matrix state with a retention gate, its values gated by what the state returns for the key, self-gated readout."""

from dataclasses import dataclass

from elmanctl.families import matrix
from elmanctl.variant import Variant, option


@dataclass(frozen=True)
class Config(matrix.Options):
    """Options of E72."""

    memory: str = option(
        "standard",
        "what of the memory opens the value's gate: itself, or (inverse) its absence",
        ("standard", "inverse"),
    )


variant = Variant(
    package=__name__,
    name="E72",
    summary="linear matrix state, retention gate per value row, values gated by the memory, self-gated",
    config=Config,
    rules=matrix.RULES,
    presets={"E72s": {"memory": "standard"}, "E72i": {"memory": "inverse"}},
)
