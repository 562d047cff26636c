"""Finished trials copied to TensorBoard or Weights & Biases (offline), where `ELMANCTL_TRACKERS=tensorboard,wandb` asks for it.

The records stay the truth; a tracker that fails is a note on stderr and no more. Nothing is sent anywhere.
"""

import importlib.util
from pathlib import Path

import msgspec

from elmanctl.errors import UserError, did_you_mean
from elmanctl.plugins import hookimpl
from elmanctl.records import Result, Step, Trial, read_steps
from elmanctl.runlog import HELDOUT, STEPS, read_heldout

VARIABLE = "ELMANCTL_TRACKERS"
CURVES = ("loss", "lr", "grad_norm")


class Trackers:
    """The plugin: hands each finished trial to the trackers named.

    Raises:
        UserError: for a name that is no tracker, or one whose package is absent.
    """

    def __init__(self, text: str):
        self.names = [name.strip() for name in text.split(",") if name.strip()]
        for name in self.names:
            if name not in TRACKERS:
                raise UserError(f"{VARIABLE} names {name}.{did_you_mean(name, TRACKERS)} Known: {', '.join(TRACKERS)}.")
            if importlib.util.find_spec(name) is None:
                raise UserError(f"{VARIABLE} names {name}, which is not installed. pip install {name}, or unset it.")

    @hookimpl
    def elmanctl_trial_finished(self, trial: Trial, result: Result, folder: Path) -> None:
        steps = read_steps(folder / STEPS) if (folder / STEPS).exists() else []
        for name in self.names:
            TRACKERS[name](trial, result, steps, folder)


def tensorboard(trial: Trial, result: Result, steps: list[Step], folder: Path) -> None:
    """Write an event file to the trial's folder `tensorboard`."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder / "tensorboard")) as writer:
        for record in (trial, result):
            text = msgspec.json.format(msgspec.json.encode(record), indent=2).decode()
            writer.add_text(type(record).__name__.lower(), f"```json\n{text}\n```")
        for step in steps:
            for name in CURVES:
                writer.add_scalar(name, getattr(step, name), step.step, walltime=step.seconds)
        for line in read_heldout(folder / HELDOUT) if (folder / HELDOUT).exists() else ():
            writer.add_scalar("heldout_loss", line.loss, line.step)


def wandb(trial: Trial, result: Result, steps: list[Step], folder: Path) -> None:
    """Write an offline run to the trial's folder `wandb`; `wandb sync` sends it, if you wish."""
    import wandb as client

    settings = msgspec.to_builtins(trial)
    run = client.init(
        mode="offline", dir=str(folder), project=trial.suite or "elmanctl", name=trial.label, config=settings
    )
    heldout = {h.step: h.loss for h in read_heldout(folder / HELDOUT)} if (folder / HELDOUT).exists() else {}
    for step in steps:
        values = {name: getattr(step, name) for name in (*CURVES, "seconds")}
        run.log(values | ({"heldout_loss": heldout[step.step]} if step.step in heldout else {}), step=step.step)
    run.summary.update(msgspec.to_builtins(result))
    run.finish(exit_code=0 if result.status == "ok" else 1)


TRACKERS = {"tensorboard": tensorboard, "wandb": wandb}
