"""E73: tanh matrix state under the delta rule, what it forgets for a key modulated by the input, self-gated readout."""

from dataclasses import dataclass

from elmanctl.families import matrix
from elmanctl.variant import Variant, option


@dataclass(frozen=True)
class Config(matrix.Options):
    """Options of E73."""

    form: str = option(
        "delta", "delta: write what the modulated state lacks; plain: decay by modulation", ("delta", "plain")
    )
    modulation: str = option(
        "column", "what the modulation multiplies: columns, rows, or both", ("column", "row", "full")
    )
    save_every: int = option(
        8, "steps between two saved states; 1: every state is saved and none computed again", (1, 8), same=True
    )


variant = Variant(
    package=__name__,
    name="E73",
    summary="tanh matrix state under the delta rule with input modulation, self-gated",
    config=Config,
    rules=matrix.RULES,
    presets={
        "E73c": {"modulation": "column"},
        "E73r": {"modulation": "row"},
        "E73f": {"modulation": "full"},
        "E73cp": {"form": "delta", "save_every": 8},
    },
)
