"""E75: gated delta rule on H independent n x n matrix states, a forget gate per value row, self-gated readout.

* E76 and E77 are its options under their own names: a gate in log space, no tanh, one head.
"""

from dataclasses import dataclass

from elmanctl.rules import Multiple, OneOf, Range, Rules, inner_multiple
from elmanctl.variant import Variant, option, tagged

SIZES = (*range(8, 97, 8), 128)


@dataclass(frozen=True)
class Config:
    """Options of E75."""

    n_heads: int = tagged("h", 4, "independent matrix states")
    n_state: int = tagged("n", 32, "rows and columns of a state")
    expansion: float = option(1.0, "inner width over model width")
    linear_state: bool = option(False, "no tanh on the state")
    decay: str = option("sigmoid", "how the forget gate of a row is made", ("sigmoid", "log_space"))
    conv: bool = option(False, "a causal convolution over four steps, channel by channel, before the inner silu")
    post_conv: bool = option(False, "no inner width: q, k and v each through a causal convolution and silu")


def _no_inner_width(config, dim):
    if config.post_conv and config.expansion != 1:
        return f"post_conv=true with expansion={config.expansion:g}. Give expansion=1 or post_conv=false"
    if config.post_conv and config.conv:
        return "post_conv=true with conv=true. Give one of the two"
    return None


RULES = Rules(
    sizes={
        "n_heads": Range(1, None, "a layer has at least one state"),
        "n_state": (
            Multiple(8, "one 16-byte row of bf16"),
            OneOf(SIZES, "a block's registers hold the state in these sizes"),
        ),
        "dim": (
            Multiple(16, "one tensor-core tile of the projections"),
            Multiple(128, "tensor-core tiles of every projection at full rate", method=True),
        ),
        "expansion": Range(0.125, 8.0, "an inner width of the model's order"),
    },
    combinations=(
        ("one tensor-core tile of the projections is 16 wide", inner_multiple(16)),
        ("the post-convolution form projects the layer's input itself, through no inner width", _no_inner_width),
    ),
)

# Levels of one head; a width may follow, as in E76-l-logn48.
ONE_HEAD = {
    "E76": {"linear_state": False, "decay": "log_space"},
    "E76-t-log": {"linear_state": False, "decay": "log_space"},
    "E76-t-sig": {"linear_state": False, "decay": "sigmoid"},
    "E76-l-log": {"linear_state": True, "decay": "log_space"},
    "E76-l-sig": {"linear_state": True, "decay": "sigmoid"},
    "E77": {"linear_state": True, "decay": "sigmoid"},
}
WIDTH = 64  # of a level of one head that names none


def _published(pinned: dict) -> str:
    options = ",".join(f"{name}={str(value).lower()}" for name, value in pinned.items())
    return f"E75h1n{WIDTH}:{options}"


variant = Variant(
    package=__name__,
    name="E75",
    summary="gated delta rule on H independent n x n matrix states, forget gate per row",
    config=Config,
    rules=RULES,
    # A published name without heads means one.
    aliases={f"E75n{n}": f"E75h1n{n}" for n in SIZES} | {name: _published(given) for name, given in ONE_HEAD.items()},
    presets={
        "E75pc": {"post_conv": True},
        "E75vec": {"linear_state": True},
        **{name: {"n_heads": 1, **given} for name, given in ONE_HEAD.items()},
    },
)
