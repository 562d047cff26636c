"""How runs end: by divergence, a signal, a full disk, lack of memory, a bug or a wrong trial; what is recorded, and the exit code."""

import os
import resource
import signal
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from training_run import RUN, Watch, result, steps

from elmanctl import train, trial
from elmanctl.checkpoint import found_in
from elmanctl.data import Source
from elmanctl.files import write_json
from elmanctl.model import LadderLM
from elmanctl.plugins.registry import registry
from elmanctl.records import Budget


def test_divergence_names_step_and_module_and_keeps_the_batch(trainee):
    ended = train.run(trainee.trial("Toy:break_at=4"), RUN)
    assert ended == result() and (ended.status, ended.steps) == ("diverged", 3)
    assert "step 4: loss nan" in ended.message and "output of layers.0.cell (Cell)" in ended.message
    kept = np.load(RUN / "diverged_step_000004.npy")
    assert np.array_equal(kept, Source.open(trainee.data, 4, 16).batch(42, 3, 4, 16))
    assert len(steps()) == 3 and ended.heldout_loss is None


def test_a_non_finite_gradient_is_located_too(trainee):
    from elmanctl.diagnose import first_nonfinite

    model = LadderLM(registry().resolve("Toy"), 16, 2)
    tokens = torch.zeros(1, 5, dtype=torch.uint8)
    assert first_nonfinite(model, tokens).startswith("nothing")
    handle = model.layers[1].wout.weight.register_hook(lambda g: g * float("nan"))
    assert first_nonfinite(model, tokens) == "gradient of layers.1.wout.weight"
    handle.remove()
    with torch.no_grad():
        model.layers[0].wout.weight[0, 0] = float("inf")
    assert first_nonfinite(model, tokens) == "the weight layers.0.wout.weight"


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_after_the_step_and_keeps_everything(trainee, sent):
    progress = Watch(3, lambda: os.kill(os.getpid(), sent))
    ended = train.run(trainee.trial(steps=50, checkpoint_every=20), RUN, progress)
    assert ended == result() and ended.status == "interrupted" and 3 <= ended.steps <= 4
    assert len(steps()) == ended.steps and [p.name[:11] for p in found_in(RUN)] == [f"step_{ended.steps:06d}"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_signal_stops_at_once(trainee):
    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    ended = train.run(trainee.trial(steps=50, checkpoint_every=20), RUN, Watch(3, twice))
    assert (ended.status, ended.steps) == ("interrupted", 3) and found_in(RUN) == []


def test_a_full_disk_ends_the_run_with_what_was_written(trainee, capsys):
    """A limit on the size of a file stands for the full disk: steps.jsonl cannot grow past it."""
    RUN.mkdir()
    write_json(RUN / "trial.json", trainee.trial(steps=200))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, hard))
    try:
        assert trial.main([str(RUN)]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "steps.jsonl could not be written" in capsys.readouterr().err
    ended = result()
    assert ended.status == "failed" and "Free some space" in ended.message and 10 < ended.steps < 200
    assert len(steps()) == ended.steps


def test_running_out_of_memory_is_recorded_with_advice(trainee, monkeypatch):
    def huge(self, *args):
        torch.empty(2**55)

    monkeypatch.setattr(LadderLM, "loss", huge)
    ended = train.run(trainee.trial(), RUN)
    assert ended.status == "oom" and "batch 4 x chunk 16" in ended.message and "smaller --batch" in ended.message


def test_a_bug_in_a_layer_is_recorded_and_keeps_its_traceback(trainee, monkeypatch, capsys):
    monkeypatch.setattr(LadderLM, "loss", lambda self, *args: 1 / 0)
    RUN.mkdir()
    write_json(RUN / "trial.json", trainee.trial())
    assert trial.main([str(RUN)]) == 1
    assert "Traceback" in capsys.readouterr().err
    assert (result().status, result().message) == ("failed", "ZeroDivisionError: division by zero")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"params": 7}, "but the trial says 7"),
        ({"budget": Budget()}, "exactly one budget"),
        ({"device": "tpu"}, "Unknown device tpu"),
        ({"model": "Toyy"}, "Unknown variant Toyy"),
    ],
)
def test_a_wrong_trial_is_refused_with_exit_2_and_a_result(trainee, capsys, change, text):
    RUN.mkdir()
    write_json(RUN / "trial.json", msgspec.structs.replace(trainee.trial(), **change))
    assert trial.main([str(RUN)]) == 2
    assert text in capsys.readouterr().err and text in result().message and result().status == "failed"


def test_trial_process_codes_and_records(trainee, capsys):
    RUN.mkdir()
    write_json(RUN / "trial.json", trainee.trial("Toy:break_at=2"))
    assert trial.main([str(RUN)]) == 1 and result().status == "diverged"
    write_json(RUN / "trial.json", trainee.trial(steps=2))
    assert trial.main([str(RUN)]) == 0 and result().status == "ok"
    (RUN / "trial.json").write_text('{"label": 1}')
    assert trial.main([str(RUN)]) == 2 and "is not a Trial record" in result().message
    assert trial.main([]) == trial.main(["nowhere"]) == 2
    assert not Path("nowhere").exists() and "nowhere/trial.json does not exist" in capsys.readouterr().err
