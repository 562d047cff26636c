import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from elmanctl import train
from elmanctl.checkpoint import found_in, latest
from elmanctl.errors import UserError
from elmanctl.files import read_json, write_json
from elmanctl.model import LadderLM
from elmanctl.records import Budget, Result, read_steps
from elmanctl.runlog import checkpoint_name, parse_checkpoint_name

GROUPS = ("model", "optimizer", "generators")


def tensors(checkpoint: Path) -> dict[str, torch.Tensor]:
    return {f"{g}.{name}": t for g in GROUPS for name, t in load_file(checkpoint / f"{g}.safetensors").items()}


def assert_same_run(a: Path, b: Path):
    """Losses, gradient norms, rates, rolling hash, weights, buffers, optimizer and generators are equal bit for bit."""
    facts = [[(s.step, s.loss, s.grad_norm, s.lr) for s in read_steps(run / "steps.jsonl")] for run in (a, b)]
    assert facts[0] == facts[1]
    results = [read_json(run / "result.json", Result) for run in (a, b)]
    for key in ("status", "steps", "batch_hash", "last100_loss", "heldout_loss", "initial_loss", "data_hash"):
        assert getattr(results[0], key) == getattr(results[1], key), key
    first, second = tensors(latest(a)), tensors(latest(b))
    assert first.keys() == second.keys() and len(first) > 20
    assert not [name for name in first if not first[name].equal(second[name])]


def test_a_killed_run_resumes_bit_for_bit(trainee):
    """SIGKILL at a random moment after the first checkpoint; dropout makes the generators matter."""
    trial = trainee.trial("Toy:dropout=0.1,seconds=0.003", steps=60, checkpoint_every=7)
    whole, killed = Path("whole"), Path("killed")
    assert train.run(trial, whole).status == "ok"
    write_json(killed / "trial.json", trial)
    process = subprocess.Popen([sys.executable, "-m", "elmanctl.trial", str(killed)], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not found_in(killed) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(delay := random.SystemRandom().uniform(0, 0.25))
    finally:
        process.kill()
    print(f"killed {delay:.3f} s after the first checkpoint, exit {process.wait()}")
    assert process.returncode == -signal.SIGKILL and not (killed / "result.json").exists()
    before = len(read_steps(killed / "steps.jsonl"))
    assert 7 <= before < 60
    assert train.run(trial, killed, resume=True).status == "ok"
    assert_same_run(whole, killed)


def test_an_interrupted_run_resumes_bit_for_bit(trainee):
    trial = trainee.trial("Toy:dropout=0.1", steps=12, checkpoint_every=100, eval_every=5)

    class Stop:
        def phase(self, text):
            pass

        def step(self, step, share, tokens_per_second):
            if step.step == 7:
                os.kill(os.getpid(), signal.SIGINT)

    assert train.run(trial, Path("a")).status == "ok"
    assert train.run(trial, Path("b"), Stop()).status == "interrupted"
    assert train.run(trial, Path("b"), resume=True).status == "ok"
    assert_same_run(Path("a"), Path("b"))
    assert Path("a/heldout.jsonl").read_bytes() == Path("b/heldout.jsonl").read_bytes()


def test_the_training_clock_goes_on_where_it_stopped(trainee, monkeypatch):
    """On a clock that a step moves by 0.1 s; between the two processes it jumps."""
    now = [0.0]

    def loss(self, tokens, forward=LadderLM.loss):
        now[0] += 0.1
        return forward(self, tokens)

    monkeypatch.setattr("elmanctl.step.time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(LadderLM, "loss", loss)
    trial = trainee.trial(budget=Budget(minutes=1 / 60), checkpoint_every=6, eval_batches=0)
    train.run(trial, Path("a"))
    shutil.rmtree(latest(Path("a")))  # leaves that of step 6
    now[0] = 1000.0
    train.run(trial, Path("a"), resume=True)
    steps = read_steps(Path("a/steps.jsonl"))
    assert [s.seconds for s in steps] == pytest.approx([0.1 * i for i in range(1, len(steps) + 1)])
    assert len(steps) in (10, 11)  # ten times 0.1 may be a little less than 1


def test_the_newest_two_are_kept_and_the_name_says_step_and_loss(trainee):
    train.run(trainee.trial(steps=7, checkpoint_every=2), Path("a"))
    losses = [s.loss for s in read_steps(Path("a/steps.jsonl"))]
    kept = [parse_checkpoint_name(p.name) for p in found_in(Path("a"))]
    assert kept == [(n, pytest.approx(sum(losses[:n]) / n, abs=6e-5)) for n in (6, 7)]
    assert not list(Path("a").rglob("*.pkl")) and not list(Path("a").rglob("*.pt"))


def test_names_sort_by_number_and_other_names_are_no_checkpoints(tmp_path):
    for step in (999_999, 1_000_000, 5):
        (tmp_path / "checkpoints" / checkpoint_name(step, 1.25)).mkdir(parents=True)
    for other in (".step_000005_loss_1.2500.77", "step_5_loss_1.2500", "step_000005_loss_1.2500.tmp", "notes"):
        (tmp_path / "checkpoints" / other).mkdir()
    assert [parse_checkpoint_name(p.name)[0] for p in found_in(tmp_path)] == [5, 999_999, 1_000_000]


def test_what_a_kill_left_half_written_is_removed_by_the_next_save(trainee):
    half = Path("a/checkpoints/.step_000001_loss_9.0000.123")
    trial = trainee.trial(steps=4, checkpoint_every=2)
    train.run(trial, Path("a"))
    half.mkdir()
    shutil.rmtree(latest(Path("a")))
    train.run(trial, Path("a"), resume=True)
    assert not half.exists() and len(found_in(Path("a"))) == 2


def test_a_damaged_checkpoint_is_refused_and_the_records_stay(trainee):
    trial = trainee.trial(steps=6, checkpoint_every=2)
    train.run(trial, Path("a"))
    before = Path("a/result.json").read_bytes(), Path("a/steps.jsonl").read_bytes()
    weights = latest(Path("a")) / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(UserError, match=r"model.safetensors is missing or damaged .* Delete"):
        train.run(trial, Path("a"), resume=True)
    weights.unlink()
    with pytest.raises(UserError, match="missing or damaged"):
        train.run(trial, Path("a"), resume=True)
    assert (Path("a/result.json").read_bytes(), Path("a/steps.jsonl").read_bytes()) == before


def test_a_checkpoint_of_another_model_or_with_lost_steps_is_refused(trainee):
    import msgspec

    trial = trainee.trial(steps=4, checkpoint_every=2)
    train.run(trial, Path("a"))
    with pytest.raises(UserError, match="does not fit this model"):
        train.run(msgspec.structs.replace(trial, depth=3), Path("a"), resume=True)
    lines = Path("a/steps.jsonl").read_bytes().splitlines(keepends=True)
    Path("a/steps.jsonl").write_bytes(b"".join(lines[:2]))
    with pytest.raises(UserError, match="holds 2 of the 4 steps"):
        train.run(trial, Path("a"), resume=True)
    with pytest.raises(UserError, match="has no checkpoint"):
        latest(Path("b"))


def test_a_fresh_run_in_the_same_folder_does_not_keep_the_old_one_s_checkpoints(trainee):
    train.run(trainee.trial(steps=9, checkpoint_every=3), Path("a"))
    train.run(trainee.trial(steps=2, checkpoint_every=1), Path("a"))
    assert [parse_checkpoint_name(p.name)[0] for p in found_in(Path("a"))] == [1, 2]


def test_a_checkpoint_that_cannot_be_written_fails_the_run_and_keeps_the_others(trainee, monkeypatch):
    from elmanctl import checkpoint

    write = checkpoint.save_file

    def full(tensors, path):
        if "step_000004" in str(path):
            raise OSError(28, "No space left on device")
        write(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(UserError, match="could not be written.*No space left"):
        train.run(trainee.trial(steps=6, checkpoint_every=2), Path("a"))
    assert [parse_checkpoint_name(p.name)[0] for p in found_in(Path("a"))] == [2]
    assert [p.name[0] for p in Path("a/checkpoints").iterdir()] == ["s"]
    ended = read_json(Path("a/result.json"), Result)
    assert (ended.status, ended.steps) == ("failed", 4)
