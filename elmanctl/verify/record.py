"""What verify writes down: receipts, with what --prove showed. JSON by the program; torch is not imported."""

import hashlib

import msgspec

SCHEMA = 2
MUTANTS = 100  # that --prove judges unless fewer are asked for


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
    case alone did; `equivalents` changed no bit of any result over the thorough cases, and are not counted; `divisions` are functions marked
    ELMAN_DIVISION, whose edits only divide the work in another way, with how many were left out and how many of those were tried; `scope` is
    the hash of what it is of (hashes.kernel_scope): while that stays, it holds, also where the layer changes.
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
    divisions: tuple[str, ...] | msgspec.UnsetType = (
        msgspec.UNSET
    )  # unset in older receipts, whose seals do not cover it
    scope: str | msgspec.UnsetType = msgspec.UNSET  # as `divisions`
    score: float
    seed: int = 0
    seconds: float = 0.0


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """What verify found of one configuration of a variant on one target, bound to the sources by their hash.

    Args:
        parts: hash of each thing that it vouches for: kernel, headers, reference, layer, host runtime, flags, policy, and where it runs, the second mode.
        keys: build key by dtype. compiler: the first line of what it says of itself.
        results: largest error over limit of each case, by its id; `tensors` the same by tensor, `worst` of all.
        failed: checks that failed; such a receipt vouches for nothing, and `list` shows it red.
        kind: `kernel`, or `library` for a baseline.
        proof: what `--prove` showed. sanitized: tool and dtype of the sanitizers that ran.
        scope: the hash of what the kernel's checks are of (hashes.kernel_scope); unset in older receipts.
        sized: ids of the cases at sizes that are trained or timed (sized.py); unset in older receipts.
        kernel_checked: when these ran, where a later run was of the layer alone and kept them (kept.py).
        seal: hash over all the rest, so that a change by hand shows.
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
    thorough: bool = False
    failed: tuple[str, ...] = ()
    parts: dict[str, str] = msgspec.field(default_factory=dict)
    keys: dict[str, str] = msgspec.field(default_factory=dict)
    compiler: str = ""
    results: dict[str, float] = msgspec.field(default_factory=dict)
    tensors: dict[str, float] = msgspec.field(default_factory=dict)
    kind: str = "kernel"
    versions: dict[str, str] = msgspec.field(default_factory=dict)
    sanitized: tuple[str, ...] = ()
    scope: str | msgspec.UnsetType = msgspec.UNSET
    sized: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET
    kernel_checked: str | msgspec.UnsetType = msgspec.UNSET
    proof: Proof | None = None
    seal: str = ""
    schema: int = 1

    def sealed(self) -> "Receipt":
        """Return the receipt with its seal."""
        return msgspec.structs.replace(self, schema=SCHEMA, seal=self._digest(SCHEMA))

    @property
    def intact(self) -> bool:
        """Whether it is as verify wrote it: sealed, and its figures agree with each other."""
        worst = max([*self.results.values(), *self.tensors.values()], default=self.worst)
        return self.seal == self._digest(self.schema) and worst == self.worst

    def _digest(self, schema: int) -> str:
        plain = msgspec.structs.replace(self, seal="", schema=schema)
        return hashlib.sha256(msgspec.json.encode(plain, order="deterministic")).hexdigest()


def nothing(variant: str, model: str, target: str) -> Receipt:
    """Return what stands for the receipts of a file that cannot be read: it was never made (`created` is empty), and says nothing."""
    facts = {"source_hash": "", "dtypes": (), "cases": 0, "worst": 0.0, "worst_tensor": "", "seconds": 0.0}
    return Receipt(variant=variant, model=model, target=target, created="", **facts)
