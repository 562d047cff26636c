import itertools
import os
import resource
import signal
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
import torch

from elmanctl import train, trial
from elmanctl.checkpoint import found_in
from elmanctl.data import Source
from elmanctl.evaluate import heldout_loss, heldout_losses
from elmanctl.files import read_json, write_json
from elmanctl.model import LadderLM
from elmanctl.plugins.registry import registry
from elmanctl.records import Budget, Result, Trial, read_steps
from elmanctl.runlog import read_heldout

RUN = Path("run")


def steps(folder=RUN):
    return read_steps(folder / "steps.jsonl")


def result(folder=RUN):
    return read_json(folder / "result.json", Result)


class Watch:
    """Progress that calls a function after one step."""

    def __init__(self, number, act):
        self.number, self.act, self.shares = number, act, []

    def phase(self, text):
        pass

    def step(self, step, share, tokens_per_second):
        self.shares.append(share)
        if step.step == self.number:
            self.act()


def test_a_run_learns_and_records_each_step_and_its_result(trainee):
    progress = Watch(0, None)
    returned = train.run(trainee.trial(steps=120, lr=0.02), RUN, progress)
    assert returned == result() and returned.status == "ok" and returned.message == ""
    lines = steps()
    assert [s.step for s in lines] == list(range(1, 121)) and {s.tokens for s in lines} == {4 * 16}
    assert all(a.seconds < b.seconds for a, b in itertools.pairwise(lines))
    assert lines[0].loss == returned.initial_loss == pytest.approx(returned.expected_initial_loss, rel=0.05)
    assert returned.warnings == ()
    assert returned.last100_loss == pytest.approx(np.mean([s.loss for s in lines[20:]]))
    assert lines[-1].loss < 2 and returned.heldout_loss < 2
    assert (returned.steps, returned.tokens) == (120, 120 * 64)
    assert returned.epochs == pytest.approx(120 * 64 / 39_600)
    assert returned.tokens_per_second > 0 and returned.peak_memory_bytes > 10**7
    assert (returned.norm, returned.graph, returned.execution, returned.receipt) == ("torch", False, "library", "")
    assert returned.versions["torch"] == torch.__version__ and returned.device_name
    assert returned.data == "data/pile.txt" and returned.data_hash.startswith("blake2b:")
    assert progress.shares == pytest.approx([i / 120 for i in range(1, 121)])


def test_every_parameter_moves(trainee, monkeypatch):
    models = []
    build = LadderLM.__init__

    def spy(self, *args, **more):
        build(self, *args, **more)
        models.append((self, {name: p.detach().clone() for name, p in self.named_parameters()}))

    monkeypatch.setattr(LadderLM, "__init__", spy)
    train.run(trainee.trial(steps=3), RUN)
    model, before = models[0]
    assert not [name for name, p in model.named_parameters() if p.equal(before[name])]


def test_two_runs_are_bit_equal_and_another_seed_differs(trainee):
    first, second = (train.run(trainee.trial(), Path(name)) for name in ("a", "b"))
    other = train.run(trainee.trial(seed=1), Path("c"))
    losses = [[s.loss for s in steps(Path(name))] for name in "abc"]
    assert losses[0] == losses[1] != losses[2]
    assert first.batch_hash == second.batch_hash != other.batch_hash
    assert first.heldout_loss == second.heldout_loss


def test_another_model_sees_the_same_bytes(trainee):
    a = train.run(trainee.trial(), Path("a"))
    b = train.run(trainee.trial("Toy:gain=0.5"), Path("b"))
    assert a.batch_hash == b.batch_hash and steps(Path("a"))[0].loss != steps(Path("b"))[0].loss


def test_evaluating_and_saving_do_not_change_training(trainee):
    train.run(trainee.trial("Toy:dropout=0.2"), Path("a"))
    train.run(trainee.trial("Toy:dropout=0.2", eval_every=2, checkpoint_every=3), Path("b"))
    assert [s.loss for s in steps(Path("a"))] == [s.loss for s in steps(Path("b"))]
    heldout = read_heldout(Path("b/heldout.jsonl"))
    assert [h.step for h in heldout] == [2, 4, 6] and [len(h.batches) for h in heldout] == [2, 2, 2]
    assert heldout[-1].loss == result(Path("b")).heldout_loss == result(Path("a")).heldout_loss


def test_held_out_loss_is_the_mean_over_windows_also_with_an_uneven_last_batch(trainee):
    model = LadderLM(registry().resolve("Toy"), 16, 1)
    source = Source.open(trainee.data, 4, 16)
    uneven = source.heldout(30, 16, 1)[0]
    parts = [uneven[:20], uneven[20:]]
    (whole,), split = (heldout_losses(model, batches, torch.device("cpu")) for batches in ([uneven], parts))
    assert whole == pytest.approx(heldout_loss(split, parts), rel=1e-6)
    assert model.layers[0].calls == 0 and model.training
    assert heldout_losses(model, [], torch.device("cpu")) == [] and heldout_loss([], []) is None


@pytest.mark.parametrize(
    ("budget", "count"), [(Budget(steps=3), 3), (Budget(tokens=64 * 4), 4), (Budget(tokens=64 * 4 + 1), 5)]
)
def test_steps_and_tokens_are_met_exactly(trainee, budget, count):
    assert train.run(trainee.trial(budget=budget), RUN).steps == count


def test_minutes_are_training_time_without_evaluating_and_saving(trainee, monkeypatch):
    """On a clock that a step moves by 0.04 s, an evaluation by 5 s and a checkpoint by 7 s."""
    now = [0.0]

    def taking(seconds, function):
        def call(*args, **kwargs):
            now[0] += seconds
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr("elmanctl.step.time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr("elmanctl.account.heldout_loss", taking(5, lambda *args: 1.0))
    monkeypatch.setattr("elmanctl.checkpoint.save", taking(7, lambda *args, **kwargs: None))
    monkeypatch.setattr(LadderLM, "loss", taking(0.04, LadderLM.loss))
    ended = train.run(trainee.trial(budget=Budget(minutes=1.02 / 60), eval_every=4, checkpoint_every=10), RUN)
    assert [s.seconds for s in steps()] == pytest.approx([0.04 * i for i in range(1, 27)])
    assert (ended.status, ended.steps, ended.seconds) == ("ok", 26, pytest.approx(1.04))


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


def test_an_untrained_loss_that_is_too_high_is_a_warning(trainee, capsys):
    # Layers that hand on their input make the readout repeat the embedding, whose own logit is then 0.02 * dim.
    trial = msgspec.structs.replace(trainee.trial("Toy:gain=300.0", steps=1), dim=512)
    ended = train.run(trial, RUN)
    assert ended.initial_loss > 1.05 * ended.expected_initial_loss
    assert "Likely cause" in ended.warnings[0] and "Warning:" in capsys.readouterr().err


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


def test_plugins_hear_of_every_finished_trial(trainee):
    from elmanctl.plugins import hookimpl

    class Listener:
        heard = ()

        @hookimpl
        def elmanctl_trial_finished(self, trial, result):
            self.heard = (*self.heard, (trial.model, result.status))

    listener = Listener()
    registry()._manager.register(listener)
    train.run(trainee.trial(steps=1), RUN)
    train.run(trainee.trial("Toy:break_at=1"), RUN)
    assert listener.heard == (("Toy", "ok"), ("Toy:break_at=1", "diverged"))


def test_a_trial_is_the_same_for_the_parent_and_the_child(trainee):
    """Every default is written out, so that the record does not change with the program."""
    write_json(Path("t.json"), trainee.trial())
    text = Path("t.json").read_text()
    assert '"betas"' in text and '"schedule": "cosine"' in text
    assert read_json(Path("t.json"), Trial) == trainee.trial()
