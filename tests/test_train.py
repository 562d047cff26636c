"""Training runs: what they learn and record, that they repeat, their budgets, and who hears of them."""

import itertools
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
import torch
from training_run import RUN, Watch, result, steps

from elmanctl import train
from elmanctl.data import Source
from elmanctl.evaluate import heldout_loss, heldout_losses
from elmanctl.files import read_json, write_json
from elmanctl.model import LadderLM
from elmanctl.plugins.registry import registry
from elmanctl.records import Budget, Trial
from elmanctl.runlog import read_heldout


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


def test_an_untrained_loss_that_is_too_high_is_a_warning(trainee, capsys):
    # Layers that hand on their input make the readout repeat the embedding, whose own logit is then 0.02 * dim.
    trial = msgspec.structs.replace(trainee.trial("Toy:gain=300.0", steps=1), dim=512)
    ended = train.run(trial, RUN)
    assert ended.initial_loss > 1.05 * ended.expected_initial_loss
    assert "Likely cause" in ended.warnings[0] and "Warning:" in capsys.readouterr().err


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
