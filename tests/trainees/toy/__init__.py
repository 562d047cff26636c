"""A torch-only variant for the tests of training: a leaky sum, with ways to go wrong on demand."""

from dataclasses import dataclass

from elmanctl.variant import Variant, option


@dataclass(frozen=True)
class Config:
    dropout: float = option(0.0, "share of outputs dropped, to test generator states")
    gain: float = option(0.0, "added to the output: the input times this")
    break_at: int = option(0, "training call from which the hidden state is infinite; 0: never")
    seconds: float = option(0.0, "time a call takes at least")


variant = Variant(package=__name__, name="Toy", summary="leaky sum", config=Config)
