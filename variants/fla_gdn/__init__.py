"""Gated DeltaNet baseline: flash-linear-attention's GatedDeltaNet layer, unchanged."""

from dataclasses import dataclass

from elmanctl.rules import Multiple, OneOf, Range, Rules
from elmanctl.variant import Variant, option


@dataclass(frozen=True)
class Config:
    """Options of the Gated DeltaNet baseline."""

    expansion: int = option(2, "width of a head's values over that of its keys (expand_v)")
    head_dim: int = option(128, "width of a head's keys; there are max(1, dim // head_dim) heads")
    allow_neg_eigval: bool = option(False, "let the write strength reach 2, so that a step may reflect the state")


variant = Variant(
    package=__name__,
    name="fla-gdn",
    summary="Gated DeltaNet (flash-linear-attention, Triton kernels, chunk mode)",
    config=Config,
    rules=Rules(
        sizes={
            "dim": (
                Multiple(16, "tensor-core tiles of the projections"),
                Multiple(128, "one alignment for every model that is compared; also whole default heads", method=True),
            ),
            "expansion": Range(1, None, "values at least as wide as keys"),
            "head_dim": OneOf(
                (32, 64, 128, 256), "the chunk kernels split keys into tiles of 64 and hold at most four"
            ),
        },
    ),
    requires=("fla",),
    install="pip install 'elmanctl[baselines]'",
    library="flash-linear-attention",
)
