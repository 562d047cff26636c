"""What a run writes: JSON by the program, with a schema version; nothing is ever parsed out of printed text.

* `trial.json` (Trial, fully resolved), `steps.jsonl` (one Step a line), `result.json` (Result), receipts (verify/record.py).
* Definitions: last-100 loss and throughput are here and nowhere else.
"""

import math
from pathlib import Path

import msgspec

from elmanctl.errors import UserError
from elmanctl.files import read_lines

SCHEMA = 1
VOUCHED = ("kernel", "cublas")  # of what a trial runs (provenance.execution), that for which a receipt vouches
LAST = 100
WARM_STEPS = 20
SCHEDULES = ("cosine", "constant")


class Budget(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How long to train: exactly one of optimizer steps, target tokens or minutes."""

    steps: int | None = None
    tokens: int | None = None
    minutes: float | None = None

    def check(self) -> None:
        """Raise UserError unless exactly one limit is given and it is positive."""
        given = {name: value for name in self.__struct_fields__ if (value := getattr(self, name)) is not None}
        if len(given) != 1:
            what = " and ".join(f"{name}={value}" for name, value in given.items()) or "none"
            raise UserError(
                f"A run needs exactly one budget, of steps, tokens or minutes; given: {what}. Give one, 10 minutes for example."
            )
        for name, value in given.items():
            if not (0 < value < math.inf):
                raise UserError(
                    f"The budget {name}={value} is not a positive number. Give one, or leave the budget to another unit."
                )


class Training(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The training block; defaults are the method's. Batch in rows, chunk in bytes, learning rate at its peak.

    `eval_every` and `checkpoint_every` count optimizer steps, 0 for never; with checkpoints on, the end is kept too.
    Two ways to spend time for memory, without effect on what is computed: the first `checkpoint_layers` layers keep their inputs alone
    and run again in the backward pass; the loss takes its positions in `loss_chunks` parts, so that the logits are never whole.
    """

    batch: int = 32
    chunk: int = 512
    lr: float = 3e-4
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.01
    warmup_steps: int = 1000
    warmup_share: float = 0.05
    clip: float = 1.0
    seed: int = 42
    schedule: str = "cosine"
    final_lr_share: float = 0.1
    data: str = "data/pile.txt"
    graph: bool = True
    eval_batches: int = 16
    eval_every: int = 0
    checkpoint_every: int = 0
    checkpoint_layers: int = 0
    loss_chunks: int = 1

    def check(self) -> None:
        """Raise UserError for a value that cannot work, naming it and what it may be."""
        for name, (accepts, wanted) in _TRAINING_RULES.items():
            if not accepts(value := getattr(self, name)):
                raise UserError(f"training {name}={value} is not {wanted}.")


_POSITIVE = (lambda value: 0 < value < math.inf, "a positive number")
_COUNT = (lambda value: value >= 0, "0 (never) or a positive number")
_SHARE = (lambda value: 0 <= value <= 1, "between 0 and 1")
_TRAINING_RULES = {
    "batch": _POSITIVE,
    "chunk": _POSITIVE,
    "lr": _POSITIVE,
    "betas": (lambda value: all(0 <= beta < 1 for beta in value), "two numbers from 0 up to, not including, 1"),
    "weight_decay": _COUNT,
    "warmup_steps": _COUNT,
    "warmup_share": _SHARE,
    "clip": (lambda value: 0 <= value < math.inf, "0 (no clipping) or a positive number"),
    "seed": (lambda value: 0 <= value < 2**63, "between 0 and 2^63 - 1"),
    "schedule": (lambda value: value in SCHEDULES, f"one of {', '.join(SCHEDULES)}"),
    "final_lr_share": _SHARE,
    "eval_batches": _COUNT,
    "eval_every": _COUNT,
    "checkpoint_every": _COUNT,
    "checkpoint_layers": (lambda value: value >= 0, "0 (none) or a number of layers"),
    "loss_chunks": (lambda value: value >= 1, "a positive number"),
}


class Trial(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One row to train, resolved to the last field.

    `model` is the canonical name; `label` the row's name in its suite; `params` counted; `micro_batches` the parts of a batch.
    `ranks`: the processes that share each batch, a GPU each.
    `unverified`: no receipt vouches for the kernel, and the run was wanted all the same.
    """

    label: str
    model: str
    dim: int
    depth: int
    params: int
    budget: Budget
    training: Training
    suite: str = ""
    device: str = "cpu"
    matched: bool = True
    relaxed: tuple[str, ...] = ()
    micro_batches: int = 1
    ranks: int = 1
    unverified: bool = False
    schema: int = SCHEMA


def rows_each(trial: Trial, split: int) -> int:
    """Return the rows of a micro-batch on each of a trial's GPUs, for a batch in `split` micro-batches."""
    return trial.training.batch // trial.ranks // split


def check_shares(batch: int, ranks: int, micro_batches: int = 1) -> None:
    """Raise UserError where a batch cannot be cut into equal parts, one or several for each of some ranks."""
    if min(ranks, micro_batches) < 1:
        raise UserError(f"gpus_per_trial={ranks}: a trial takes at least 1 GPU.")
    if batch % micro_batches:
        raise UserError(f"A batch of {batch} rows cannot be taken in {micro_batches} equal micro-batches.")
    if batch % (ranks * micro_batches):
        parts = f" in {micro_batches} micro-batches each" if micro_batches > 1 else ""
        raise UserError(f"A batch of {batch} rows cannot be shared equally by {ranks} GPUs{parts}.")


class Step(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One optimizer step, counted from 1.

    Training loss in nats per byte, before this step's update; learning rate; gradient norm before clipping; seconds of
    training since the first counted step began; target tokens of this step alone.
    """

    step: int
    loss: float
    lr: float
    grad_norm: float
    seconds: float
    tokens: int


class Heldout(msgspec.Struct, frozen=True, kw_only=True):
    """One evaluation on the held-out tail after `step` steps: mean loss in nats per byte. A line of heldout.jsonl.

    `batches` has the loss of each fixed batch, so that two models can be compared batch by batch.
    """

    step: int
    loss: float
    batches: tuple[float, ...] = ()


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """How a trial ended. Losses in nats per byte; absent (None) rather than invented where a run was too short.

    `status` is ok, diverged, oom, timeout, failed, interrupted or contaminated.
    `peak_memory_bytes` is device memory on CUDA and the process's largest resident set on a CPU.
    """

    status: str
    steps: int
    tokens: int
    seconds: float
    last100_loss: float | None = None
    heldout_loss: float | None = None
    tokens_per_second: float | None = None
    peak_memory_bytes: int | None = None
    epochs: float = 0.0
    initial_loss: float | None = None
    expected_initial_loss: float | None = None
    data: str = ""
    data_hash: str = ""
    batch_hash: str = ""
    execution: str = ""
    receipt: str = ""
    norm: str = ""
    graph: bool = False
    device_name: str = ""
    versions: dict[str, str] = msgspec.field(default_factory=dict)
    message: str = ""
    warnings: tuple[str, ...] = ()
    schema: int = SCHEMA


def last100_loss(steps: list[Step]) -> float | None:
    """Return the mean training loss, nats per byte, over the last 100 optimizer steps; None if fewer ran."""
    return mean_loss(steps[-LAST:]) if len(steps) >= LAST else None


def mean_loss(steps: list[Step]) -> float:
    """Return the token-weighted mean training loss of some steps, nats per byte; NaN for none."""
    tokens = sum(s.tokens for s in steps)
    return sum(s.loss * s.tokens for s in steps) / tokens if tokens else math.nan


def throughput(steps: list[Step]) -> float | None:
    """Return target tokens per second of training time after the first 20 steps; None if no step followed them."""
    if len(steps) <= WARM_STEPS:
        return None
    rest = steps[WARM_STEPS:]
    seconds = rest[-1].seconds - steps[WARM_STEPS - 1].seconds
    return sum(s.tokens for s in rest) / seconds if seconds > 0 else None


def read_steps(path: Path) -> list[Step]:
    """Read steps.jsonl; a last line cut off by a kill is dropped.

    Raises:
        UserError: naming the line that is no Step record.
    """
    return read_lines(path, Step)
