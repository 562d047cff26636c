"""`make_run`: a run's records with synthetic losses on shared batches, as bench leaves them; `run`: results alone, without steps."""

import msgspec
import numpy as np
import pytest

from elmanctl import plan
from elmanctl.files import write_json
from elmanctl.records import Budget, Heldout, Result, Step, Training, Trial, last100_loss, throughput
from elmanctl.runlog import HELDOUT, RESULT, STEPS, TRIAL

SPREAD, OWN = 0.05, 0.009  # noise of a batch, and of one model on it: as measured on seven models of 100 M parameters


def losses(seed: int, offset: float, steps: int, own: int) -> np.ndarray:
    """Return losses of a model `offset` above the others: the batches' noise is that of `seed`, the model's own that of `own`."""
    batches = np.random.default_rng(seed).normal(0, SPREAD, steps)
    return (
        1.5
        + 2 * np.exp(-np.arange(steps) / 30)
        + batches
        + np.random.default_rng([seed, own]).normal(offset, OWN, steps)
    )


def write_trial(folder, label, number, *, seed=42, steps=200, step_seconds=0.5, offset=0.0, heldout=True, **changes):
    """Write the records of one finished trial."""
    training = Training(seed=seed, **changes.pop("training", {}))
    trial = Trial(label=label, model="gru", dim=64, depth=2, params=1000, budget=Budget(steps=steps), training=training)
    trial = msgspec.structs.replace(trial, budget=changes.pop("budget", trial.budget))
    found = [
        Step(step=i, loss=loss, lr=1e-3, grad_norm=1.0, seconds=i * step_seconds, tokens=16384)
        for i, loss in enumerate(losses(seed, offset, steps, number).tolist(), 1)
    ]
    write_json(folder / TRIAL, trial)
    (folder / STEPS).write_bytes(b"".join(msgspec.json.encode(s) + b"\n" for s in found))
    batches = tuple((1.6 + np.random.default_rng(0).normal(0, 0.1, 16) + offset).tolist())
    if heldout:
        line = Heldout(step=steps, loss=float(np.mean(batches)), batches=batches)
        (folder / HELDOUT).write_bytes(msgspec.json.encode(line) + b"\n")
    result = Result(
        status="ok",
        steps=steps,
        tokens=steps * 16384,
        seconds=steps * step_seconds,
        last100_loss=last100_loss(found),
        heldout_loss=float(np.mean(batches)) if heldout else None,
        tokens_per_second=throughput(found),
        peak_memory_bytes=2**30 * (number + 1),
        data_hash="blake2b:abc",
        batch_hash=f"{seed}-{steps}",
        device_name="NVIDIA H200",
        execution="kernel",
        receipt="0123456789abcdef",
        versions={"torch": "2.13.0"},
    )
    write_json(folder / RESULT, msgspec.structs.replace(result, **changes))


@pytest.fixture
def make_run(tmp_path, monkeypatch):
    """Return a function that writes runs/<name>: row -> how its trials differ; `seeds` trials each."""
    monkeypatch.chdir(tmp_path)

    def make(rows, name="r", seeds=(42,), looks=(), **changes):
        folder, planned = tmp_path / "runs" / name, []
        for number, (row, how) in enumerate(rows.items()):
            for turn, seed in enumerate(seeds):
                label = f"{row} seed {seed}" if turn else row
                place = label.replace(" ", "_")
                entry = plan.PlannedRow(label=label, folder=place, model="gru", depth=2, dim=64, params=1000)
                planned.append(msgspec.structs.replace(entry, group=row if len(seeds) > 1 else ""))
                if how is not None:
                    write_trial(folder / place, label, number, seed=seed, **how)
        facts = {"suite": "s", "description": "d", "created": "now", "params": None, "tolerance": 0.06, "matched": True}
        write_json(folder / plan.RUN, plan.Run(**{**facts, **changes}, relaxed=(), rows=tuple(planned), looks=looks))
        return folder

    return make


ROW_TRIAL = Trial(
    label="",
    model="",
    dim=128,
    depth=2,
    params=1_000_000,
    budget=Budget(minutes=10),
    training=Training(),
    device="cuda",
)
ROW_RESULT = Result(
    status="ok",
    steps=500,
    tokens=8_192_000,
    seconds=600.0,
    last100_loss=1.5,
    heldout_loss=1.6,
    tokens_per_second=123_456.0,
    peak_memory_bytes=24 * 2**30,
    data="data/pile.txt",
    data_hash="blake2b:abc",
    execution="kernel",
    receipt="0123456789abcdef",
    norm="torch",
    graph=True,
    device_name="NVIDIA H200",
    versions={"torch": "2.13.0", "python": "3.11"},
)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Return a function that writes a run: label -> (changes to the trial, changes to the result or None)."""
    monkeypatch.chdir(tmp_path)

    def write(entries, name="r", **changes):
        folder = tmp_path / "runs" / name
        planned = []
        for label, (trial, result) in entries.items():
            made = msgspec.structs.replace(ROW_TRIAL, **{"label": label, "model": label, **trial})
            write_json(folder / label / "trial.json", made)
            if result is not None:
                write_json(folder / label / "result.json", msgspec.structs.replace(ROW_RESULT, **result))
            planned.append(
                plan.PlannedRow(label=label, folder=label, model=made.model, depth=2, dim=made.dim, params=made.params)
            )
        facts = {
            "suite": "s",
            "description": "a test",
            "created": "2026-01-01T00:00:00",
            "params": 1_000_000,
            "tolerance": 0.06,
            "matched": True,
            "relaxed": (),
        }
        write_json(folder / "run.json", plan.Run(**{**facts, **changes}, rows=tuple(planned)))
        return folder

    return write
