"""What a run has recorded so far: steps.jsonl and heldout.jsonl as it goes, result.json at its end."""

import shutil
from pathlib import Path

import numpy as np
import torch

from elmanctl import checkpoint, device
from elmanctl.data import Source
from elmanctl.diagnose import initial_warning
from elmanctl.evaluate import heldout_loss
from elmanctl.files import write_json
from elmanctl.records import Heldout, Result, Step, Trial, last100_loss, throughput
from elmanctl.runlog import HELDOUT, RESULT, STEPS, Lines, cut, read_heldout


class Account:
    """The records of one run.

    Args:
        trial: what is trained; folder: where the records go.
    """

    def __init__(self, trial: Trial, folder: Path):
        self.trial, self.folder = trial, folder
        self.steps: list[Step] = []
        self.batch_hash = ""
        self.facts: dict = {}  # fields of Result that are known as soon as the run is prepared
        self.warnings: list[str] = []
        self._log: Lines | None = None
        self._evaluated = 0  # the step of the last evaluation in heldout.jsonl

    @property
    def seconds(self) -> float:
        """The training clock after the last recorded step."""
        return self.steps[-1].seconds if self.steps else 0.0

    @property
    def open(self) -> bool:
        """Whether records are being written."""
        return self._log is not None

    def go_back(self, step: int, batch_hash: str, rewrite: bool) -> None:
        """Take the steps up to a checkpoint as this run's own; `rewrite` drops later ones from the files."""
        self.steps, self.batch_hash = cut(self.folder, step, rewrite), batch_hash
        if rewrite and (self.folder / HELDOUT).exists():
            self._evaluated = max((line.step for line in read_heldout(self.folder / HELDOUT)), default=0)

    def start(self, anew: bool) -> None:
        """Write to the files from now on; `anew`: remove what an earlier run left in the folder."""
        for name in (STEPS, HELDOUT) if anew else ():
            (self.folder / name).unlink(missing_ok=True)
        if anew:
            shutil.rmtree(checkpoint.folder_of(self.folder), ignore_errors=True)
        self._log = Lines(self.folder / STEPS)

    def append(self, step: Step, batch_hash: str) -> None:
        """Record a finished step, and the hash of the batches up to it."""
        if self._log is not None:
            self._log.append(step)
        self.steps.append(step)
        self.batch_hash = batch_hash

    def first(self) -> str:
        """Record the untrained loss; return a warning where a sound model of this width has a lower one."""
        loss = self.facts["initial_loss"] = self.steps[0].loss
        if text := initial_warning(loss, self.facts["expected_initial_loss"]):
            self.warnings.append(text)
        return text

    def heldout(self, losses: list[float], batches: list[np.ndarray]) -> float | None:
        """Record an evaluation after the present step, unless the file has it, and return its mean loss."""
        loss = heldout_loss(losses, batches)
        if loss is not None and self.open and self._evaluated < len(self.steps):
            self._evaluated = len(self.steps)
            lines = Lines(self.folder / HELDOUT)
            lines.append(Heldout(step=len(self.steps), loss=loss, batches=tuple(losses)))
            lines.close()
        return loss

    def sync(self) -> None:
        """Let the steps so far survive the end of the machine."""
        if self._log is not None:
            self._log.sync()

    def close(self) -> None:
        """Write no more steps."""
        if self._log is not None:
            self._log.close()

    def write(self, result: Result) -> None:
        """Write the result and tell the plugins; one that fails does not matter to the run."""
        from elmanctl.plugins.registry import registry

        write_json(self.folder / RESULT, result)
        registry().hook.elmanctl_trial_finished(trial=self.trial, result=result, folder=self.folder)

    def result(self, status: str, message: str, on: torch.device | None, source: Source | None) -> Result:
        """Return the record of the run as it stands.

        Args:
            on: the device, and `source` the data; None where the run was not prepared so far.
        """
        tokens = sum(step.tokens for step in self.steps)
        return Result(
            status=status,
            message=message,
            steps=len(self.steps),
            tokens=tokens,
            seconds=self.seconds,
            last100_loss=last100_loss(self.steps),
            tokens_per_second=throughput(self.steps),
            peak_memory_bytes=device.peak_memory(on) if on else None,
            epochs=tokens / source.training_bytes if source else 0.0,
            batch_hash=self.batch_hash,
            warnings=tuple(self.warnings),
            **self.facts,
        )
