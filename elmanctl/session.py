"""One training run: what is built for it, the loop over steps, and what it records.

* Data, learning rate and stopping depend on the trial alone; the step itself is in step.py, the records are in account.py.
* Minutes count from the first step: compiling, warming up, capturing, evaluating and saving are not training time.
* Of several ranks each runs this; rank 0 leads and records (ranks.py). Every rank takes the same turns, so that none waits in vain.
"""

import time
from collections import deque
from pathlib import Path

import numpy as np
import torch

from elmanctl import checkpoint, data, device, launch, provenance, ranks, takeover
from elmanctl.account import Account
from elmanctl.console import note
from elmanctl.diagnose import divergence
from elmanctl.errors import UserError
from elmanctl.evaluate import heldout_losses
from elmanctl.files import write_json
from elmanctl.interrupt import Interrupt
from elmanctl.model import LadderLM, expected_initial_loss, parameter_count
from elmanctl.optim import Optimizer, Schedule
from elmanctl.progress import Progress
from elmanctl.ranks import DIVERGED, DONE, INTERRUPTED, STEP, Ranks, Turn
from elmanctl.records import LAST, Result, Step, Trial, mean_loss, throughput
from elmanctl.runlog import RESULT, rank_folder
from elmanctl.step import stepper_on


class Diverged(Exception):
    """Loss or gradient is no longer finite."""


class Session:
    """One run: what was built for it and what it has recorded so far."""

    def __init__(self, trial: Trial, folder: Path, progress: Progress | None):
        self.trial, self.folder, self.progress = trial, folder, progress
        self.account = Account(trial, folder)
        self.interrupt = Interrupt()
        self.ranks = Ranks()
        self.halted = self.agreed = False  # a step was not finite; every rank knows that the run has ended
        self.launched: deque[tuple[float, str]] = deque()  # learning rate and batch hash of the steps in flight
        self.saved, self.saved_at = 0, time.monotonic()
        self.save_seconds = 0.0  # between checkpoints, 0 for none by time

    def prepare(self, resume: bool) -> None:
        """Check the request, open the data, build model and optimizer, warm up and capture, and resume if asked."""
        from elmanctl.plugins.registry import registry

        trial, t = self.trial, self.trial.training
        trial.budget.check()
        t.check()
        self.ranks = ranks.join(trial)
        self.device = device.choose(self.ranks.device(trial.device))
        spec = registry().resolve(trial.model)
        spec.check(trial.dim, trial.relaxed)
        where = launch.device(device.target_of(self.device), self.device.index or 0)
        spec, instead = takeover.of_trial(spec, trial, where)
        for text in filter(None, (instead, provenance.remark(spec, trial, self.device))):
            self.account.warnings.append(text)
            self.tell(f"Warning: {text}")
        self.source = data.Source.open(t.data, t.batch, t.chunk, tell=self.ranks.first)
        self.account.facts = {
            "data": str(self.source.path),
            "data_hash": self.source.hash,
            **provenance.facts(spec, self.device),
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
        self.stepper = stepper_on(self.device, self.model, self.optimizer, t, trial.micro_batches, self.ranks)
        self.say("preparing the step")
        self.account.facts["graph"] = self.stepper.graph
        self.stepper.prepare(self.ranks.rows(self.batch(0)))
        if self.ranks.same(resume):
            self.resume()
        if self.ranks.first:
            self.account.start(anew=not resume)

    def resume(self) -> None:
        """Go back to the newest checkpoint."""
        path = Path(self.ranks.same(str(checkpoint.latest(self.folder)) if self.ranks.first else ""))
        manifest = checkpoint.load(path, self.model, self.optimizer, self.device)
        self.account.go_back(manifest.step, manifest.batch_hash, rewrite=self.ranks.first)
        self.schedule.start, self.saved = manifest.schedule_start, manifest.step
        self.tell(f"Resuming after step {manifest.step} from {path.name}.")
        self.check_initial()

    def say(self, text: str) -> None:
        if self.progress:
            self.progress.phase(text)

    def tell(self, text: str) -> None:
        if self.ranks.first:
            note(text)

    def batch(self, index: int) -> np.ndarray:
        """Return the batch of the step after `index` finished ones, the same on every rank."""
        t = self.trial.training
        return self.source.batch(t.seed, index, t.batch, t.chunk)

    def turn(self, count: int) -> Turn:
        """Decide on the step after `count` launched ones."""
        t, elapsed = self.trial.training, self.stepper.elapsed()
        if self.interrupt.requested:
            return Turn(INTERRUPTED)
        if self.schedule.spent(count, elapsed) >= 1:
            return Turn(DONE)
        save = t.checkpoint_every and (count + 1) % t.checkpoint_every == 0
        save = save or 0 < self.save_seconds <= time.monotonic() - self.saved_at
        return Turn(STEP, self.schedule.rate(count, elapsed), bool(save))

    def train(self) -> str:
        """Run steps until the budget is spent or a stop is requested, then evaluate and save as asked.

        Returns:
            the status: ok or interrupted.
        Raises:
            Diverged: when a loss or gradient was not finite.
        """
        t = self.trial.training
        self.interrupt.gentle = True
        try:
            ended = self.advance()
            self.receive(wait=True)
            if self.halted:
                raise Diverged("rank 0 records how")
        except Diverged:
            self.agreed = True
            raise
        keep = t.checkpoint_every or (self.save_seconds and ended == INTERRUPTED)
        if keep and self.saved < len(self.account.steps):
            self.save()
        self.interrupt.gentle = False
        if ended == DONE and t.eval_batches:
            self.account.facts["heldout_loss"] = self.evaluate()
        self.agreed = True
        return "ok" if ended == DONE else "interrupted"

    def advance(self) -> int:
        """Run steps until there is none to take, and return why."""
        t, stepper, account = self.trial.training, self.stepper, self.account
        count, batch_hash = len(account.steps), account.batch_hash
        stepper.start_clock(account.seconds)
        try:
            while (turn := self.ranks.lead(self.turn, count)).what == STEP:
                batch = self.batch(count)
                batch_hash = data.chain(batch_hash, batch)
                self.launched.append((turn.lr, batch_hash))
                stepper.launch(self.ranks.rows(batch), turn.lr)
                count += 1
                evaluate = bool(t.eval_every and count % t.eval_every == 0)
                self.receive(wait=evaluate or turn.save)
                if evaluate and not self.halted:
                    self.evaluate()
                if turn.save:
                    self.save()
                if evaluate or turn.save:
                    stepper.start_clock(account.seconds)
        except Diverged:
            self.ranks.lead(Turn, DIVERGED)
            raise
        return turn.what

    def receive(self, wait: bool) -> None:
        """Record the steps that have finished; all in flight if `wait`."""
        t = self.trial.training
        for outcome in self.stepper.collect(wait):
            number = len(self.account.steps) + 1
            if outcome.halted:
                self.halted = True
                if self.ranks.first:
                    raise Diverged(self.diverged(number, f"loss {outcome.loss}, gradient norm {outcome.grad_norm}"))
                continue  # until rank 0 says that it is the end
            lr, batch_hash = self.launched.popleft()
            step = Step(
                step=number,
                loss=outcome.loss,
                lr=lr,
                grad_norm=outcome.grad_norm,
                seconds=outcome.seconds,
                tokens=t.batch * t.chunk,
            )
            self.account.append(step, batch_hash)
            if number == 1:
                self.check_initial()
            if self.progress:
                self.progress.step(
                    step, self.schedule.spent(number, step.seconds), throughput(self.account.steps[-LAST:])
                )

    def check_initial(self) -> None:
        """Warn of an untrained loss that a sound model of this width does not have."""
        if text := self.account.first():
            self.tell(f"Warning: {text}")

    def diverged(self, number: int, found: str) -> str:
        """Keep the batch of the failed step, find where it fails, and return what to record."""
        parts = self.ranks.count * self.trial.micro_batches
        return divergence(self.folder, self.model, self.batch(number - 1), parts, number, found)

    def evaluate(self) -> float | None:
        """Return the held-out loss after the present step, and record it; each rank takes some of the batches."""
        t = self.trial.training
        self.say("evaluating on the held-out tail")
        batches = self.source.heldout(t.batch, t.chunk, t.eval_batches)
        own = heldout_losses(self.model, self.ranks.share(batches), self.device)
        return self.account.heldout(self.ranks.gather(own, len(batches)), batches)

    def save(self) -> None:
        """Write a checkpoint of the present step; other ranks go on to wait for the next turn."""
        if self.ranks.first:
            self.say("writing a checkpoint")
            self.account.sync()
            checkpoint.save(
                self.folder,
                self.model,
                self.optimizer,
                self.device,
                step=len(self.account.steps),
                loss=mean_loss(self.account.steps[-LAST:]),
                seconds=self.account.seconds,
                batch_hash=self.account.batch_hash,
                schedule_start=self.schedule.start,
            )
        self.saved, self.saved_at = len(self.account.steps), time.monotonic()

    def close(self, status: str, message: str, resumed: bool) -> Result:
        """Write how the run ended; a resume that never began leaves the earlier records alone."""
        on = self.device if hasattr(self, "stepper") else None
        result = self.account.result(status, message, on, self.source if on else None)
        self.account.close()
        if self.ranks.first and (self.account.open or not resumed):
            self.account.write(result)
        elif not self.ranks.first and not self.agreed:  # this rank's own failure
            write_json(rank_folder(self.folder, self.ranks.rank) / RESULT, result)
        return result
