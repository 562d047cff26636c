"""What a step keeps in memory, chosen to fit a device: first nothing is given up, then ever more time for ever less memory.

1. as the trial asks;  2. the loss in chunks;  3. a quarter, half, three quarters, all of the layers checkpointed;  4. smaller micro-batches.

Where a row does not fit as it is, two small steps of it are measured (a sixteenth and an eighth of the batch, say): memory is a constant and so
much for each position, which predicts the rest. What is predicted not to fit is not tried; what is chosen has been run.
"""

from dataclasses import dataclass

import msgspec

from elmanctl.queue.settle import finer
from elmanctl.records import Trial, rows_each

LOSS_CHUNKS = 8
SHARES = (0.25, 0.5, 0.75, 1.0)  # of the layers
ROOM = 0.96  # of a device's memory; the rest is the driver's, and what lies between blocks
# Bytes: of a checkpointed layer's element, its input in bf16 and the residual stream in fp32; of a logit, in bf16, in fp32, and its gradient.
CHECKPOINT_BYTES, LOGIT_BYTES, VOCABULARY = 6, 10, 256


@dataclass(frozen=True)
class Fit:
    """How a trial's step is taken: parts of the loss, checkpointed layers, parts of the batch."""

    loss_chunks: int = 1
    checkpoint_layers: int = 0
    micro_batches: int = 1

    def applied(self, trial: Trial) -> Trial:
        """Return the trial with this fit."""
        training = msgspec.structs.replace(
            trial.training, loss_chunks=self.loss_chunks, checkpoint_layers=self.checkpoint_layers
        )
        return msgspec.structs.replace(trial, training=training, micro_batches=self.micro_batches)

    def text(self, trial: Trial) -> str:
        """Return what is given up for memory, in words; empty for nothing."""
        parts = [f"loss in {self.loss_chunks} chunks"] if self.loss_chunks > 1 else []
        parts += [f"{self.checkpoint_layers} of {trial.depth} layers checkpointed"] if self.checkpoint_layers else []
        rows = rows_each(trial, self.micro_batches)
        parts += [f"{self.micro_batches} micro-batches of {rows} rows"] if self.micro_batches > 1 else []
        return ", ".join(parts)


def asked(trial: Trial) -> Fit:
    """Return the fit that a trial has as it is."""
    return Fit(trial.training.loss_chunks, trial.training.checkpoint_layers, trial.micro_batches)


def splits(trial: Trial) -> list[int]:
    """Return the numbers of micro-batches that may be tried, the trial's own first."""
    found = [trial.micro_batches]
    while more := finer(trial, found[-1]):
        found.append(more)
    return found


def ladder(trial: Trial) -> list[Fit]:
    """Return every fit of a trial in rising thrift, the trial's own first."""
    own, whole = asked(trial), splits(trial)
    chunks = max(own.loss_chunks, min(LOSS_CHUNKS, trial.training.batch * trial.training.chunk))
    found = [own, Fit(chunks, own.checkpoint_layers, whole[0])]
    for share in SHARES:
        layers = max(own.checkpoint_layers, -int(-trial.depth * share // 1))
        found.append(Fit(chunks, layers, whole[0]))
    found += [Fit(chunks, trial.depth, split) for split in whole[1:]]
    return list(dict.fromkeys(found))


def samples(trial: Trial) -> list[Fit]:
    """Return the two small steps that are measured, the smallest first; fewer where the batch cannot be cut so often."""
    own = asked(trial)
    return [Fit(own.loss_chunks, own.checkpoint_layers, split) for split in splits(trial)[:0:-1][:2]]


def predicted(trial: Trial, fit: Fit, measured: dict[Fit, int]) -> float | None:
    """Return the peak memory of a fit in bytes, None where fewer than two samples were measured.

    Args:
        measured: peak memory of each of `samples`.
    """
    known = [(s, measured[s]) for s in samples(trial) if s in measured]
    if len(known) < 2:
        return None
    (small, low), (large, high) = known
    constant, slope = _line(positions(trial, small), low, positions(trial, large), high)
    head = VOCABULARY * LOGIT_BYTES
    checkpoint = CHECKPOINT_BYTES * trial.dim
    own = asked(trial)
    # The samples' layers: those that the trial checkpoints already keep `checkpoint`, and one at a time is whole.
    whole = trial.depth - own.checkpoint_layers + (own.checkpoint_layers > 0)
    layer = max((slope - head / own.loss_chunks - own.checkpoint_layers * checkpoint) / whole, checkpoint)
    kept = (trial.depth - fit.checkpoint_layers + (fit.checkpoint_layers > 0)) * layer
    each = kept + fit.checkpoint_layers * checkpoint + head / fit.loss_chunks
    return constant + each * positions(trial, fit)


def positions(trial: Trial, fit: Fit) -> int:
    """Return the positions of a micro-batch on one device."""
    return rows_each(trial, fit.micro_batches) * trial.training.chunk


def _line(x0: float, y0: float, x1: float, y1: float) -> tuple[float, float]:
    slope = max(y1 - y0, 0) / (x1 - x0)
    return y0 - slope * x0, slope


def following(trial: Trial, tried: dict[Fit, int | None], capacity: int | None) -> Fit | None:
    """Return what to run next, after some runs; None where one of the ladder has run, or nothing is left.

    Args:
        tried: peak memory of what was run, None for what did not fit.
        capacity: bytes of the device, None where not known; then nothing is predicted.
    """
    steps = ladder(trial)
    if steps[0] not in tried:
        return steps[0]
    if any(tried.get(fit) is not None for fit in steps):
        return None
    measured = {fit: peak for fit, peak in tried.items() if peak is not None}
    if capacity is not None and not set(samples(trial)) & set(steps):
        for sample in samples(trial):
            if sample not in tried:
                return sample
            if tried[sample] is None:  # the other is larger still
                break
    left = [fit for fit in steps if fit not in tried]
    for fit in left:
        peak = predicted(trial, fit, measured) if capacity is not None else None
        if peak is None or peak <= ROOM * capacity:
            return fit
    return left[-1] if left else None
