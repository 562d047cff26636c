"""E75: gated delta rule on H independent n x n tanh matrix states, a forget gate per value row, self-gated readout."""

from dataclasses import dataclass

from elmanctl.rules import Multiple, OneOf, Range, Rules
from elmanctl.variant import Variant, option, tagged

SIZES = (8, 16, 24, 32, 40, 48, 56, 64, 96, 128)


@dataclass(frozen=True)
class Config:
    """Options of E75."""

    n_heads: int = tagged("h", 4, "independent matrix states")
    n_state: int = tagged("n", 32, "rows and columns of a state")
    expansion: float = option(1.0, "inner width over model width")

    def inner_dim(self, dim: int) -> int:
        """Width between the input projection and the projections of the recurrence."""
        return int(dim * self.expansion)


def _inner_width(config, dim):
    if dim is not None and (config.inner_dim(dim) % 16 or config.inner_dim(dim) < 16):
        return (
            f"expansion={config.expansion:g} makes the inner width {config.inner_dim(dim)} at dim={dim}. "
            "Choose an expansion for which dim*expansion is a multiple of 16, as 0.5, 1 or 2"
        )
    return None


RULES = Rules(
    sizes={
        "n_heads": Range(1, None, "a layer has at least one state"),
        "n_state": (
            Multiple(8, "one 16-byte row of bf16"),
            OneOf(SIZES, "the lanes of a row share its keys evenly in these sizes"),
        ),
        "dim": (
            Multiple(16, "one tensor-core tile of the projections"),
            Multiple(128, "tensor-core tiles of every projection at full rate", method=True),
        ),
    },
    combinations=(("one tensor-core tile of the projections is 16 wide", _inner_width),),
)

variant = Variant(
    package=__name__,
    name="E75",
    summary="gated delta rule on H independent n x n tanh matrix states",
    config=Config,
    rules=RULES,
)
