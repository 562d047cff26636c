"""E79: two matrix states, each of which gates what the other forgets, by rows and by columns; delta rules, self-gated readout."""

from dataclasses import dataclass

from elmanctl.families import matrix
from elmanctl.rules import Multiple, OneOf, Rules
from elmanctl.variant import Variant, option

SIZES = (8, 16, 24, 32, 40, 48, 56, 64)


@dataclass(frozen=True)
class Config(matrix.Options):
    """Options of E79."""

    bias: str = option(
        "learned",
        "of the gates: learned vectors, none, or (projected) vectors made of the input",
        ("learned", "none", "projected"),
    )


RULES = Rules(
    sizes=matrix.RULES.sizes
    | {
        "n_state": (
            Multiple(8, "one 16-byte row of bf16"),
            OneOf(SIZES, "a block's registers hold two states and their gradients in these sizes"),
        ),
    },
    combinations=matrix.RULES.combinations,
)

variant = Variant(
    package=__name__,
    name="E79",
    summary="two coupled matrix states that gate each other by rows and columns, delta rules, self-gated",
    config=Config,
    rules=RULES,
    presets={"E79nb": {"bias": "none"}, "E79ib": {"bias": "projected"}},
)
