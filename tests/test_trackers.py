"""Trackers: what reaches them, and that neither a wrong name nor a failure costs a run. The clients themselves are stood in for."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from elmanctl import train
from elmanctl.files import read_json
from elmanctl.plugins.registry import registry
from elmanctl.records import Result


class Client:
    """Stands for wandb: remembers what it was told."""

    def __init__(self):
        self.started, self.logged, self.summary, self.ended = None, [], {}, None

    def init(self, **settings):
        self.started = settings
        return self

    def log(self, values, step):
        self.logged.append((step, values))

    def finish(self, exit_code):
        self.ended = exit_code


@pytest.fixture
def client(monkeypatch):
    """Put a stand-in in the place of the package wandb and ask for it."""
    made = Client()
    made.__spec__ = SimpleNamespace(name="wandb")
    monkeypatch.setitem(sys.modules, "wandb", made)
    monkeypatch.setenv("ELMANCTL_TRACKERS", "wandb")
    return made


def test_a_finished_trial_reaches_the_tracker_offline(trainee, client):
    registry.cache_clear()
    result = train.run(trainee.trial(steps=4, eval_every=2), Path("run"))
    assert client.started["mode"] == "offline" and client.started["name"] == "Toy" and client.started["dir"] == "run"
    assert client.started["config"]["training"]["batch"] == 4
    assert [step for step, _ in client.logged] == [1, 2, 3, 4]
    assert ["heldout_loss" in values for _, values in client.logged] == [False, True, False, True]
    assert client.summary["status"] == "ok" == result.status and client.ended == 0


def test_a_tracker_that_fails_is_a_note_and_the_run_is_kept(trainee, client, capsys, monkeypatch):
    def fail(**_):
        raise RuntimeError("no room")

    monkeypatch.setattr(client, "init", fail)
    registry.cache_clear()
    assert train.run(trainee.trial(steps=2), Path("run")).status == "ok"
    assert read_json(Path("run/result.json"), Result).status == "ok" and "no room" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ("wandbb", "ELMANCTL_TRACKERS names wandbb. Close: wandb"),
        ("tensorboard", "tensorboard, which is not installed"),
    ],
)
def test_a_tracker_that_cannot_be_is_one_problem_of_list(trainee, monkeypatch, names, says):
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *_: None)
    monkeypatch.setenv("ELMANCTL_TRACKERS", names)
    from elmanctl.plugins.discovery import load_trackers

    with pytest.raises(Exception, match=says):
        load_trackers(names)
    monkeypatch.undo()
    monkeypatch.setenv("ELMANCTL_TRACKERS", "wandbb")
    registry.cache_clear()
    assert any("names wandbb" in problem.text for problem in registry().problems())


def test_tensorboard_writes_an_event_file(trainee, monkeypatch):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    monkeypatch.setenv("ELMANCTL_TRACKERS", "tensorboard")
    registry.cache_clear()
    train.run(trainee.trial(steps=3), Path("run"))
    assert any(Path("run/tensorboard").iterdir())
