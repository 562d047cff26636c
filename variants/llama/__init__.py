"""Transformer baseline: prenorm causal attention with rotary positions, then a SwiGLU feed-forward, each with its own residual."""

from dataclasses import dataclass

from elmanctl.rules import Multiple, Rules
from elmanctl.variant import Variant


@dataclass(frozen=True)
class Config:
    """The transformer baseline has no options."""


variant = Variant(
    package=__name__,
    name="llama",
    summary="plain prenorm transformer: causal attention (RoPE) and SwiGLU as two residual sub-layers",
    config=Config,
    rules=Rules(
        sizes={
            "dim": (
                Multiple(16, "tensor-core tiles of the projections"),
                Multiple(128, "one alignment for every model that is compared; also whole heads of 64", method=True),
            )
        }
    ),
    sublayers=("Attention", "FeedForward"),
    library="torch scaled_dot_product_attention",
)
