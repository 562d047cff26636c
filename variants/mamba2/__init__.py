"""Mamba-2 baseline: the mamba-ssm package's Mamba2 block, unchanged."""

from dataclasses import dataclass

from elmanctl.rules import Multiple, OneOf, Range, Rules
from elmanctl.variant import Variant, option


@dataclass(frozen=True)
class Config:
    """Options of the Mamba-2 baseline, under the package's own names."""

    d_state: int = option(128, "state size of each channel")
    expand: int = option(2, "inner width over the model width")
    headdim: int = option(64, "channels that share one decay")
    d_conv: int = option(4, "taps of the causal convolution")


def whole_heads(config: Config, dim: int | None) -> str | None:
    """Return the clash between the inner width and the heads, or None."""
    if dim is None or config.expand * dim % config.headdim == 0:
        return None
    return f"dim={dim} gives an inner width of {config.expand * dim}, not a multiple of headdim={config.headdim}"


variant = Variant(
    package=__name__,
    name="mamba2",
    summary="Mamba-2 state space layer (mamba-ssm, Triton kernels)",
    config=Config,
    rules=Rules(
        sizes={
            "dim": (
                Multiple(16, "tensor-core tiles of the projections"),
                Multiple(128, "one alignment for every model that is compared", method=True),
            ),
            "d_state": (
                Multiple(16, "tensor-core tiles of the chunk scan"),
                Range(16, 256, "a program of the chunk scan holds the state in one tile"),
            ),
            "expand": Range(1, None, "an inner width of at least the model's"),
            "headdim": (
                Multiple(16, "tensor-core tiles of the chunk scan"),
                Range(16, 256, "a program of the chunk scan holds the head in one tile"),
            ),
            "d_conv": OneOf((2, 3, 4), "the widths that causal-conv1d is compiled for"),
        },
        combinations=(("heads divide the inner width", whole_heads),),
    ),
    requires=("mamba_ssm", "causal_conv1d"),
    install="pip install 'elmanctl[baselines]'",
    library="mamba-ssm",
)
