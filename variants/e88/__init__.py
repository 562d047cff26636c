"""E88: multi-head delta rule with a tanh matrix state, after the shell of gated delta networks.

* Options are those of the ablations; presets.py lists the published names.
"""

from dataclasses import dataclass

from elmanctl.rules import Multiple, OneOf, Range, Rules
from elmanctl.variant import Variant, option, tagged

from .presets import PRESETS

SIZES = (8, 16, 24, 32, 40, 48, 56, 64, 72, 80, 88, 96, 128)
STATE_LIMIT = 128 * 128
VALUE_LIMIT = 256
ROUNDED = 1e-3  # of a value width, where an expansion such as 4/3 is written with as many digits as one likes


@dataclass(frozen=True)
class Config:
    """Options of E88; the defaults are the best stripped configuration."""

    n_heads: int = tagged("h", 8, "independent matrix states")
    n_state: int = tagged("n", 32, "key width of a head")
    expansion: float = option(1.0, "value width over key width")
    use_conv: bool = option(False, "causal depthwise convolution of width 4 on q, k and v")
    use_silu: bool = option(True, "silu on q, k and v")
    use_l2_norm: bool = option(True, "unit length of q and k")
    decay: str = option("mamba", "how the decay of a head is made", ("mamba", "simple", "constant", "none"))
    use_write_gate: bool = option(False, "scale each write by a sigmoid gate of the head")
    linear_state: bool = option(False, "no tanh on the state")
    use_value_residual: bool = option(False, "add a learned multiple of v to the readout")
    use_output_norm: bool = option(False, "RMSNorm of each head's readout")
    use_gate: bool = option(False, "output gate")
    gate_activation: str = option("silu", "activation of the output gate", ("silu", "sigmoid"))
    tie_kv: bool = option(False, "v is k before its norm")
    head_mix: str = option(
        "concat", "how heads become one output", ("concat", "weighted_sum", "per_head", "input_weighted", "sum")
    )

    @property
    def n_v(self) -> int:
        """Value width of a head: a whole number, as the rules see to."""
        return round(self.n_state * self.expansion)


def _expansion(config, width):
    return f"{width / config.n_state:.7g}"


def _value_width(config, dim):
    width = config.n_state * config.expansion
    if abs(width - config.n_v) > ROUNDED or config.n_v % 8 or config.n_v < 8:
        near = [m for m in (int(width) // 8 * 8, int(width) // 8 * 8 + 8) if m]
        legal = ", ".join(_expansion(config, m) for m in near)
        return f"expansion={config.expansion:g} makes values {width:g} wide, which is not a multiple of 8. Nearest: {legal}"
    return None


def _state_size(config, dim):
    if config.n_v > VALUE_LIMIT or config.n_v * config.n_state > STATE_LIMIT:
        most = _expansion(config, min(VALUE_LIMIT, STATE_LIMIT // config.n_state // 8 * 8))
        return f"expansion={config.expansion:g} makes states of {config.n_v} x {config.n_state}. Largest: {most}"
    return None


def _tied_width(config, dim):
    if config.tie_kv and config.expansion != 1:
        return f"tie_kv=true with expansion={config.expansion:g}. Give expansion=1 or tie_kv=false"
    return None


def _gate_activation(config, dim):
    if not config.use_gate and config.gate_activation != "silu":
        return f"gate_activation={config.gate_activation} without a gate. Add use_gate=true"
    return None


def _one_head(config, dim):
    if config.n_heads == 1 and config.head_mix in ("weighted_sum", "input_weighted"):
        return f"head_mix={config.head_mix} with one head. Give head_mix=concat, or more heads"
    return None


RULES = Rules(
    sizes={
        "n_heads": Range(1, None, "a layer has at least one state"),
        "n_state": (
            Multiple(8, "one 16-byte row of bf16"),
            OneOf(
                SIZES,
                "the lanes of a row share its keys evenly, and a block's registers hold the state, in these sizes",
            ),
        ),
        "dim": (
            Multiple(16, "one tensor-core tile of the projections"),
            Multiple(128, "tensor-core tiles of every projection at full rate", method=True),
        ),
    },
    combinations=(
        ("a row of values is whole 16-byte words of bf16", _value_width),
        (
            f"a block has registers for {STATE_LIMIT} elements and shared memory for rows of {VALUE_LIMIT} values",
            _state_size,
        ),
        ("a key takes the place of the value, so both have one width", _tied_width),
        ("it would have no effect", _gate_activation),
        ("the weight of one head among one is always 1 and could not be learned", _one_head),
    ),
)

variant = Variant(
    package=__name__,
    name="E88",
    summary="delta rule on H independent tanh matrix states, scalar decay per head, unit keys",
    config=Config,
    rules=RULES,
    presets=PRESETS,
)
