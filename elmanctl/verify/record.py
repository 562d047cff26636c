"""What verify writes down: receipts, with what --prove showed. JSON by the program; torch is not imported."""

import msgspec

SCHEMA = 2


class ShapeScore(msgspec.Struct, frozen=True, kw_only=True):
    """What one case alone showed: of the mutants whose results differ there, how many it rejects; and those that it lets pass.

    Every kernel mutant comes to every fp32 case; one that crashes or hangs ends there.
    """

    case: str
    truth_seen: int
    truth_killed: int
    seen: int
    killed: int
    missed: tuple[str, ...] = ()


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """What `verify --prove` planted, and what became of it; all counts.

    Truth mutants are damaged results, each at several extents; kernel mutants (`mutants`) are edits of the source that compile and change
    something. `score` is killed of killed and survived; `everywhere` were rejected by each case that sees them; `shapes` says how each
    case alone did; `equivalents` changed no bit of any result over the thorough cases, and are not counted.
    """

    truth_mutants: int
    truth_killed: int
    truth_survivors: tuple[str, ...] = ()
    not_applicable: int = 0
    mutants: int
    killed: int
    everywhere: int = 0
    survivors: tuple[str, ...] = ()
    shapes: tuple[ShapeScore, ...] = ()
    equivalent: int = 0
    equivalents: tuple[str, ...] = ()
    score: float
    seed: int = 0
    seconds: float = 0.0


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """Proof that one configuration of a variant passed verify on one target, bound to the sources by their hash.

    `worst` is the largest error over limit; `kind` is `kernel`, or `library` for a baseline; `proof` what `--prove` showed.
    `sanitized` lists tool and dtype of the sanitizers that ran.
    """

    variant: str
    model: str
    target: str
    source_hash: str
    dtypes: tuple[str, ...]
    cases: int
    worst: float
    worst_tensor: str
    seconds: float
    created: str
    device_name: str = ""
    seed: int = 0
    quick: bool = False
    kind: str = "kernel"
    versions: dict[str, str] = msgspec.field(default_factory=dict)
    sanitized: tuple[str, ...] = ()
    proof: Proof | None = None
    schema: int = SCHEMA
