"""Rows are put into a queue all together or not at all, and what their folders held is kept."""

from pathlib import Path
from types import SimpleNamespace as Some

import msgspec
import pytest

from elmanctl.errors import UserError
from elmanctl.files import read_json, write_json
from elmanctl.queue import enqueue
from elmanctl.queue.log import Queue
from elmanctl.records import Budget, Result, Training, Trial

TRIAL = Trial(label="a", model="M", dim=8, depth=1, params=1, budget=Budget(steps=7), training=Training())
OLD = Result(status="failed", steps=0, tokens=0, seconds=0.0, message="the night before")


@pytest.fixture
def run(tmp_path):
    """A run in which a, b and c, which cannot be built, have failed in an earlier night."""
    for label in "abc":
        write_json(tmp_path / "r" / label / "result.json", OLD)
    return tmp_path / "r"


def put(run, *, limits=None, folders=("a", "b", "c", "d")):
    rows = [Some(row=Some(label=x, folder=x, problem=""), trial=msgspec.structs.replace(TRIAL, label=x)) for x in "ab"]
    rows += [Some(row=Some(label=x, folder=x, problem="cannot be built"), trial=None) for x in "cd"]
    for row, folder in zip(rows, folders, strict=True):
        row.row.folder = folder
    return enqueue.enqueue(Some(rows=rows, pool=None), run, False, limits or enqueue.Limits())


def held(run):
    """Return what lies in a run besides its log."""
    return sorted(str(p.relative_to(run)) for p in run.rglob("*") if p.is_file() and p.name != "events.jsonl")


def test_all_are_moved_and_queued(run):
    found = put(run)
    assert found.labels == {"a", "b"} == Queue(run).refresh().jobs.keys() and found.notes == ["cannot be built"] * 2
    kept = [f"previous/{label}-1/result.json" for label in "abc"]
    assert held(run) == ["c/result.json", "d/result.json", *kept]
    assert read_json(run / "c/result.json", Result).message == "cannot be built"
    put(run)
    assert read_json(run / "previous/c-1/result.json", Result) == OLD and (run / "previous/c-2").exists()


@pytest.mark.parametrize("trouble", ["a folder that cannot be moved", "a queue that cannot be written", "a number"])
def test_where_one_cannot_be_all_is_as_it_was(run, monkeypatch, trouble):
    before, facts = held(run), {}
    if trouble == "a folder that cannot be moved":
        facts["folders"] = ("a", "b", "..", "d")
        says = "Nothing was queued, and everything is where it was"
    elif trouble == "a number":
        facts["limits"], says = enqueue.Limits(backoff_seconds=float("nan")), "could not be read back"
    else:
        says = "No space left"
        error = UserError("No space left on device")

        def full(self, file, text):
            raise error

        monkeypatch.setattr(Queue, "_append", full)
    with pytest.raises(UserError, match=says):
        put(run, **facts)
    assert held(run) == before and not (run / "d").exists() and not Queue(run).refresh().jobs
    assert not list(Path(run / "previous").glob("*"))
