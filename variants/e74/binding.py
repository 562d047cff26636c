"""Tensors and compile-time constants of the E74 kernel.

* `projected` has the raw vectors of a step side by side, as one product leaves them: `vectors` names them in order.
* `keys`, of a low-rank state: query, key and reader in its columns; key and query are products of unit keys by then.
* `parameters` has what is added to logits, and other numbers for each row: `parameters` names them in order.
* A diagonal state is a matrix of one column.
"""

from elmanctl.families.matrix import STEPS
from elmanctl.kernel import Kernel
from elmanctl.spread import MATRIX

from . import BLIND, BLOCK, GATES, NONLINEARITIES, UPDATES

TIED = {"tied_kq": 1, "tied_kvq": 2}
SHARED = (
    32 * 32
)  # elements of a state up to which, beside rows of up to 64, a chunk's states fit in shared memory, in fp64 too
WORKERS = 256  # lanes of a block that share a chunk of a diagonal's steps, up to four elements each
COLUMNS = 8  # least that the matrix family takes: a low-rank state is filled up with zeros
LOGITS = {
    "ema": ("retain_logit",),
    "ntm": ("erase_logit", "write_logit"),
    "retrieved_gate": ("write_logit",),
    "energy_gate": ("write_logit",),
}
OWN = {
    "simple": ("decay",),
    "fixed_decay": ("decay",),
    "ema": ("retain_bias",),
    "residual": ("scale",),
    "ntm": ("erase_bias", "write_bias"),
    "retrieved_gate": ("write_bias",),
    "energy_gate": ("write_bias",),
}

kernel = Kernel(
    package=__package__,
    inputs={
        "projected": "B T VECTORS*H*M",
        "keys": "B T KEYS*H*N ?LOW_RANK",
        "parameters": "H PARAMETERS M @acc ?PARAMETERS",
        "s0": "B H M N @acc",
    },
    outputs={"y": "B T H*M", "s_last": "B H M N @acc"},
    saved={
        "slots": "B H cdiv(T,K) M N @acc ?MATRIX",
        "readout": "B T H*M @acc ?MATRIX",
        "states": "B H T+1 M @acc ?DIAGONAL",
        "numbers": "B T H*NUMBERS @acc ?NUMBERS",
    },
    backward_scratch={
        "history": "B H K+1 M N @acc ?GLOBAL_HISTORY",
        "partial": "B H 2*K 16 3*N @acc ?GLOBAL_HISTORY",
    },
    backward_outputs={"parameter_parts": "B H PARAMETERS M @acc ?PARAMETERS"},
    constants={
        "N": "columns of a state",
        "M": "rows of a state",
        "RANK": "columns of a state that are in use",
        "K": "steps of a chunk; of a matrix between two saved states",
        "GLOBAL_HISTORY": "1: a chunk's states go to global memory, since they do not fit on the chip",
        "MATRIX": "1: the state is a matrix",
        "DIAGONAL": "1: the state is a diagonal",
        "LOW_RANK": "1: query, key and reader are given in the columns of the state",
        "KEYS": "vectors of a step in `keys`",
        "UPDATE": "which update, by its place in UPDATES",
        "PHI": "which nonlinearity, by its place in NONLINEARITIES",
        "GATE": "which gate, by its place in GATES",
        "TIED": "1: the query is the raw key, 2: the value too",
        "MODULATED": "1: the memory is read with z k",
        "READS": "1: the update reads the memory",
        "NUMBERS": "numbers of a whole matrix that a step uses: a squared error, the factors of a norm and of its derivative",
        "VECTORS": "raw vectors of a step in `projected`",
        "PARAMETERS": "vectors over rows in `parameters`",
    },
    torch_gradients=("parameters",),
    after_backward="weight_gradients",
    # The bf16 build's tanh is 1 - 2 / (1 + 2^x) from the hardware's exponential and reciprocal (math.cuh): 1e-7 beside
    # the true value whatever its size, so a state below that is noise.
    rounds={"tanh": "absolute 2e-7"},
    # A state sums T writes of sums over N; a gradient also sums over its rows; a parameter over batch and time besides.
    terms={"y": "T*N", "s_last": "T*N", "*": "T*(N+M)", "parameters": "B*T*N"},
    # Above 168 are forms with a sum over the whole state, up to n=32: blocks of eight warps, one a multiprocessor from 129 on. Above 192 is
    # update=residual with several states in a warp: two tanh of eight elements in the replay and one in the walk beside it, in blocks of three warps.
    budgets={"registers": 240, "spill_bytes": 0, "shared_bytes": 4096},
    work={"forward": "7*B*T*H*M*N", "backward": "21*B*T*H*M*N"},
    rivals=("fla_gated_delta", "mamba_scan"),
    tiling=MATRIX,
)


def vectors(constants: dict[str, int]) -> tuple[str, ...]:
    """Return the names of the raw vectors in `projected`, in order."""
    own = ("v",) if constants["LOW_RANK"] else (("q", "k", "v"), ("k", "v"), ("k",))[constants["TIED"]]
    z = ("z",) if constants["MODULATED"] else ()
    gate = ("gate_logit",) if GATES[constants["GATE"]] == "input" else ()
    return (*own, *z, *LOGITS.get(UPDATES[constants["UPDATE"]], ()), *gate)


def parameters(constants: dict[str, int]) -> tuple[str, ...]:
    """Return the names of the vectors in `parameters`, in order."""
    gate = {"input": ("gate_bias",), "retain": ("gamma", "shift"), "state": ("gamma", "shift")}
    z = ("z_bias",) if constants["MODULATED"] else ()
    return (*z, *OWN.get(UPDATES[constants["UPDATE"]], ()), *gate.get(GATES[constants["GATE"]], ()))


def constants(config) -> dict[str, int]:
    """Return the compile-time constants of a Config."""
    n, low_rank, diagonal = config.n_state, config.state == "low_rank", config.state == "diagonal"
    rows = BLOCK if config.state == "block" else n
    columns = COLUMNS if low_rank else 1 if diagonal else rows
    chunk = next(steps for steps in (32, 16, 8) if n * steps <= 4 * WORKERS)
    found = {
        "N": columns,
        "M": rows,
        "RANK": config.rank if low_rank else columns,
        "K": chunk if diagonal else STEPS,
        "GLOBAL_HISTORY": int(not diagonal and (rows * columns > SHARED or rows > 64)),
        "MATRIX": int(not diagonal),
        "DIAGONAL": int(diagonal),
        "LOW_RANK": int(low_rank),
        "KEYS": 0 if not low_rank else 2 if config.update in BLIND else 3,
        "UPDATE": UPDATES.index(config.update),
        "PHI": NONLINEARITIES.index(config.nonlinearity),
        "GATE": GATES.index(config.gate),
        "TIED": 0 if low_rank else TIED.get(config.projection, 0),
        "MODULATED": int(config.projection == "full"),
        "READS": int(config.update not in BLIND),
        "NUMBERS": int(not diagonal)
        * ((config.update == "energy_gate") + 2 * (config.nonlinearity in ("rms", "frobenius"))),
    }
    return found | {"VECTORS": len(vectors(found)), "PARAMETERS": len(parameters(found))}


def verify_sizes(config) -> dict[str, int]:
    """Return the sizes besides batch, time and width that verify uses: a second state shows what a third would."""
    return {"H": 2}
