"""One training run: what is built for it, the loop over steps, and what it records.

* Data, learning rate and stopping depend on the trial alone; the step itself is in step.py.
* Minutes count from the first step: compiling, warming up, capturing, evaluating and saving are not training time.
"""

import shutil
import time
from collections import deque
from pathlib import Path

import numpy as np
import torch

from elmanctl import checkpoint, data, device, norms, provenance
from elmanctl.console import note
from elmanctl.diagnose import first_nonfinite
from elmanctl.errors import UserError
from elmanctl.evaluate import heldout_loss, heldout_losses
from elmanctl.files import atomic
from elmanctl.interrupt import Interrupt
from elmanctl.model import LadderLM, expected_initial_loss, parameter_count
from elmanctl.optim import Optimizer, Schedule
from elmanctl.progress import Progress
from elmanctl.records import LAST, Heldout, Result, Step, Trial, last100_loss, mean_loss, throughput
from elmanctl.runlog import HELDOUT, STEPS, Lines, cut
from elmanctl.step import stepper_on

INITIAL_EXCESS = 0.05  # share above the expected initial loss that is worth a warning


class Diverged(Exception):
    """Loss or gradient is no longer finite."""


class Session:
    """One run: what was built for it and what it has recorded so far."""

    def __init__(self, trial: Trial, folder: Path, progress: Progress | None):
        self.trial, self.folder, self.progress = trial, folder, progress
        self.interrupt = Interrupt()
        self.steps: list[Step] = []
        self.log: Lines | None = None
        self.batch_hash = ""
        self.launched: deque[tuple[float, str]] = deque()  # learning rate and batch hash of the steps in flight
        self.facts: dict = {}  # fields of Result that are known as soon as the run is prepared
        self.warnings: list[str] = []
        self.saved, self.saved_at = 0, time.monotonic()
        self.save_seconds = 0.0  # between checkpoints, 0 for none by time

    def prepare(self, resume: bool) -> None:
        """Check the request, open the data, build model and optimizer, warm up and capture, and resume if asked."""
        from elmanctl.plugins.registry import registry

        trial, t = self.trial, self.trial.training
        trial.budget.check()
        t.check()
        self.device = device.choose(trial.device)
        spec = registry().resolve(trial.model)
        spec.check(trial.dim, trial.relaxed)
        self.source = data.Source.open(t.data, t.batch, t.chunk)
        kind, receipt = provenance.execution(spec, self.device)
        self.facts = {
            "data": str(self.source.path),
            "data_hash": self.source.hash,
            "execution": kind,
            "receipt": receipt,
            "norm": norms.implementation(self.device),
            "device_name": device.name_of(self.device),
            "versions": provenance.versions(spec.variant),
            "expected_initial_loss": expected_initial_loss(trial.dim),
        }
        self.say("building the model")
        torch.manual_seed(t.seed)
        model = LadderLM(spec, trial.dim, trial.depth, checkpoint_layers=t.checkpoint_layers, loss_chunks=t.loss_chunks)
        if trial.params and parameter_count(model) != trial.params:
            raise UserError(
                f"{trial.label}: the model has {parameter_count(model):,} parameters, but the trial says {trial.params:,}. "
                "The variant has changed since it was sized; make the trial again."
            )
        self.model = model.to(self.device)
        self.optimizer = Optimizer(self.model, t, self.device)
        self.schedule = Schedule(t, trial.budget)
        self.stepper = stepper_on(self.device, self.model, self.optimizer, t, trial.micro_batches)
        self.say("preparing the step")
        self.facts["graph"] = self.stepper.graph
        self.stepper.prepare(self.batch(0))
        if resume:
            self.resume()
        else:
            for name in (STEPS, HELDOUT):
                (self.folder / name).unlink(missing_ok=True)
            shutil.rmtree(checkpoint.folder_of(self.folder), ignore_errors=True)
        self.log = Lines(self.folder / STEPS)

    def resume(self) -> None:
        """Go back to the newest checkpoint."""
        path = checkpoint.latest(self.folder)
        manifest = checkpoint.load(path, self.model, self.optimizer, self.device)
        self.steps = cut(self.folder, manifest.step)
        self.batch_hash, self.schedule.start, self.saved = manifest.batch_hash, manifest.schedule_start, manifest.step
        note(f"Resuming after step {manifest.step} from {path.name}.")
        self.check_initial(self.steps[0].loss)

    @property
    def seconds(self) -> float:
        return self.steps[-1].seconds if self.steps else 0.0

    def say(self, text: str) -> None:
        if self.progress:
            self.progress.phase(text)

    def batch(self, index: int) -> np.ndarray:
        """Return the batch of the step after `index` finished ones."""
        t = self.trial.training
        return self.source.batch(t.seed, index, t.batch, t.chunk)

    def train(self) -> None:
        """Run steps until the budget is spent or a stop is requested, then evaluate and save as asked."""
        t, stepper = self.trial.training, self.stepper
        count, batch_hash = len(self.steps), self.batch_hash
        self.interrupt.gentle = True
        stepper.start_clock(self.seconds)
        while not self.interrupt.requested and self.schedule.spent(count, stepper.elapsed()) < 1:
            batch = self.batch(count)
            batch_hash = data.chain(batch_hash, batch)
            lr = self.schedule.rate(count, stepper.elapsed())
            self.launched.append((lr, batch_hash))
            stepper.launch(batch, lr)
            count += 1
            evaluate = t.eval_every and count % t.eval_every == 0
            save = t.checkpoint_every and count % t.checkpoint_every == 0
            save = save or 0 < self.save_seconds <= time.monotonic() - self.saved_at
            self.receive(wait=bool(evaluate or save))
            if evaluate:
                self.evaluate()
            if save:
                self.save()
            if evaluate or save:
                stepper.start_clock(self.seconds)
        self.receive(wait=True)
        keep = t.checkpoint_every or (self.save_seconds and self.interrupt.requested)
        if keep and self.saved < len(self.steps):
            self.save()
        self.interrupt.gentle = False
        if not self.interrupt.requested and t.eval_batches:
            self.facts["heldout_loss"] = self.evaluate()

    def receive(self, wait: bool) -> None:
        """Record the steps that have finished; all in flight if `wait`."""
        tokens = self.trial.training.batch * self.trial.training.chunk
        for outcome in self.stepper.collect(wait):
            number = len(self.steps) + 1
            if outcome.halted:
                raise Diverged(self.diverged(number, outcome.loss, outcome.grad_norm))
            lr, self.batch_hash = self.launched.popleft()
            step = Step(
                step=number,
                loss=outcome.loss,
                lr=lr,
                grad_norm=outcome.grad_norm,
                seconds=outcome.seconds,
                tokens=tokens,
            )
            self.log.append(step)
            self.steps.append(step)
            if number == 1:
                self.check_initial(step.loss)
            if self.progress:
                self.progress.step(step, self.schedule.spent(number, step.seconds), throughput(self.steps[-LAST:]))

    def check_initial(self, loss: float) -> None:
        """Warn of an untrained loss that a sound model of this width does not have."""
        self.facts["initial_loss"], expected = loss, self.facts["expected_initial_loss"]
        if loss > expected * (1 + INITIAL_EXCESS):
            text = (
                f"The untrained model's loss is {loss:.3f}; ln 256 + 0.0002 dim = {expected:.3f} is expected. Likely cause: a layer whose "
                "output repeats the embedding at a large scale, so that the tied head is sure of the wrong byte; look at its initialisation."
            )
            self.warnings.append(text)
            note(f"Warning: {text}")

    def diverged(self, number: int, loss: float, grad_norm: float) -> str:
        """Keep the batch of the failed step, find where it fails, and return what to record."""
        batch = self.batch(number - 1)
        kept = self.folder / f"diverged_step_{number:06d}.npy"
        with atomic(kept, "wb") as file:
            np.save(file, batch)
        where = first_nonfinite(self.model, torch.from_numpy(batch).to(self.device))
        return (
            f"step {number}: loss {loss}, gradient norm {grad_norm}; first not finite: {where}. "
            f"The batch is kept in {kept.name}. A lower --lr is the usual remedy."
        )

    def evaluate(self) -> float | None:
        """Return the held-out loss after the present step, and record it."""
        t = self.trial.training
        self.say("evaluating on the held-out tail")
        batches = self.source.heldout(t.batch, t.chunk, t.eval_batches)
        losses = heldout_losses(self.model, batches, self.device)
        loss = heldout_loss(losses, batches)
        if loss is not None:
            lines = Lines(self.folder / HELDOUT)
            lines.append(Heldout(step=len(self.steps), loss=loss, batches=tuple(losses)))
            lines.close()
        return loss

    def save(self) -> None:
        """Write a checkpoint of the present step."""
        self.say("writing a checkpoint")
        self.log.sync()
        checkpoint.save(
            self.folder,
            self.model,
            self.optimizer,
            self.device,
            step=len(self.steps),
            loss=mean_loss(self.steps[-LAST:]),
            seconds=self.seconds,
            batch_hash=self.batch_hash,
            schedule_start=self.schedule.start,
        )
        self.saved, self.saved_at = len(self.steps), time.monotonic()

    def announce(self, result: Result) -> None:
        """Tell the plugins that this trial has ended; a plugin that fails does not matter to the run."""
        from elmanctl.plugins.registry import registry

        registry().hook.elmanctl_trial_finished(trial=self.trial, result=result, folder=self.folder)

    def result(self, status: str, message: str) -> Result:
        """Return the record of the run as it stands."""
        tokens = sum(step.tokens for step in self.steps)
        prepared = hasattr(self, "stepper")
        return Result(
            status=status,
            message=message,
            steps=len(self.steps),
            tokens=tokens,
            seconds=self.seconds,
            last100_loss=last100_loss(self.steps),
            tokens_per_second=throughput(self.steps),
            peak_memory_bytes=device.peak_memory(self.device) if prepared else None,
            epochs=tokens / self.source.training_bytes if prepared else 0.0,
            batch_hash=self.batch_hash,
            warnings=tuple(self.warnings),
            **self.facts,
        )
