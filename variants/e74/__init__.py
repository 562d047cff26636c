"""E74: the delta rule on one state, and the grid around it: state, projections, update, nonlinearity, gate."""

from dataclasses import dataclass

from elmanctl.families import matrix
from elmanctl.rules import OneOf, Rules
from elmanctl.variant import Variant, option

STATES = ("full", "diagonal", "block", "low_rank")
PROJECTIONS = ("no_z", "tied_kq", "tied_kvq", "full")
UPDATES = ("delta", "simple", "ema", "residual", "ntm", "retrieved_gate", "energy_gate", "fixed_decay")
NONLINEARITIES = ("tanh", "linear", "rms", "frobenius")
GATES = ("output", "input", "retain", "state")
BLIND = ("simple", "ema", "ntm")  # updates that do not read what the state returns for the key
RANK, BLOCK = 4, 8  # the rank unless given; rows and columns of a block
WIDEST_FULL_GATE = 48


@dataclass(frozen=True)
class Config(matrix.Options):
    """Options of E74; the defaults are the pure delta rule."""

    state: str = option("full", "n x n, n, n/8 blocks of 8 x 8, or n x rank", STATES)
    projection: str = option(
        "no_z", "k, v and q; with q or both from k's matrix; or a modulation z besides", PROJECTIONS
    )
    update: str = option("delta", "how a step changes the state", UPDATES)
    nonlinearity: str = option("tanh", "of the new state; rms and frobenius divide it by its norm", NONLINEARITIES)
    gate: str = option("output", "readout gated by itself or by the input, or write gated by the memory", GATES)
    decay: str = option("constant", "fixed_decay's decay: 0.9, or a parameter", ("constant", "trained"))
    rank: int = option(RANK, "columns of a low-rank state")


def _modulation(config, dim):
    if config.projection == "full" and config.update in BLIND:
        return f"projection=full with update={config.update}, which reads no memory. Choose projection=no_z or another update"
    if config.projection == "full" and config.state == "low_rank":
        return "projection=full with state=low_rank, whose columns are no keys. Choose projection=no_z or another state"
    return None


def _memory_gate(config, dim):
    if config.gate in ("retain", "state") and config.update != "delta":
        return f"gate={config.gate} with update={config.update}. Choose update=delta, or gate=output or input"
    return None


def _full_gate(config, dim):
    if config.gate in ("retain", "state") and config.projection == "full" and config.state == "full":
        if config.nonlinearity in ("rms", "frobenius"):
            both = f"projection=full and nonlinearity={config.nonlinearity}"
            return f"gate={config.gate} with {both}. Choose one of projection=no_z, gate=output and nonlinearity=tanh"
        if config.n_state > WIDEST_FULL_GATE:
            both = f"projection=full and n_state={config.n_state}"
            return f"gate={config.gate} with {both}. Choose n_state={WIDEST_FULL_GATE} or less, or projection=no_z"
    return None


def _decay(config, dim):
    if config.decay != "constant" and config.update != "fixed_decay":
        return f"decay={config.decay} with update={config.update}. Add update=fixed_decay"
    return None


def _rank(config, dim):
    if config.rank != RANK and config.state != "low_rank":
        return f"rank={config.rank} with state={config.state}. Add state=low_rank"
    return None


RULES = Rules(
    sizes={**matrix.RULES.sizes, "rank": OneOf((4, 8), "the columns of a low-rank state fit eight of the kernel's")},
    combinations=(
        *matrix.RULES.combinations,
        ("z multiplies the columns that the delta rule reads", _modulation),
        (
            "these gates weigh the write of the pure delta rule; other updates have a weight or gate of their own",
            _memory_gate,
        ),
        (
            "the backward pass has registers for z, a gate of the memory and a state's sum in no more than this",
            _full_gate,
        ),
        ("it would have no effect", _decay),
        ("it would have no effect", _rank),
    ),
)

variant = Variant(
    package=__name__,
    name="E74",
    summary="delta rule on one state, with the grid of states, updates, projections and gates around it",
    config=Config,
    rules=RULES,
    presets={
        "E74v2": {"state": "full", "projection": "no_z"},
        **{
            f"E74v2-{update}": {"state": "full", "projection": "no_z", "update": update}
            for update in ("delta", "residual", "ntm", "retrieved_gate", "ema")
        },
        **{
            f"E74v2-{update}-input": {"state": "full", "projection": "no_z", "update": update, "gate": "input"}
            for update in ("delta", "ema")
        },
        "E74-fixed-decay": {"update": "fixed_decay", "nonlinearity": "linear"},
    },
)
