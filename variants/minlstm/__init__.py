"""minLSTM: an LSTM whose gates and candidate see the input alone."""

from dataclasses import dataclass

from elmanctl.families import pointwise
from elmanctl.variant import Variant, option


@dataclass(frozen=True)
class Config:
    """Options of minLSTM."""

    expansion: float = option(1.0, "width of the cell over the model width")


variant = Variant(
    package=__name__,
    name="minlstm",
    summary="minimal LSTM: gates and candidate of the input alone, run step by step",
    config=Config,
    rules=pointwise.RULES,
)
