"""RNN baseline: torch.nn.RNN's tanh cell, which cuDNN runs on a GPU, between an input and an output projection."""

from dataclasses import dataclass

from elmanctl.rules import Multiple, Range, Rules
from elmanctl.variant import Variant, option


@dataclass(frozen=True)
class Config:
    """Options of the RNN baseline."""

    expansion: int = option(1, "width of the cell over the model width")


variant = Variant(
    package=__name__,
    name="rnn",
    summary="Elman's tanh recurrence, one dense cell per layer, run by cuDNN",
    config=Config,
    rules=Rules(
        sizes={
            "dim": (
                Multiple(16, "tensor-core tiles of the projections and of cuDNN's products"),
                Multiple(128, "one alignment for every model that is compared", method=True),
            ),
            "expansion": Range(1, None, "the cell is at least as wide as the model"),
        }
    ),
    library="cuDNN through torch.nn.RNN",
)
