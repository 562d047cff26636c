"""`elmanctl runs gc`: what it takes, and what it leaves because somebody needs it or it is none of elmanctl's."""

import json
import os
import shutil
from pathlib import Path
from unittest import mock

import pytest

from elmanctl.queue.log import Queue
from elmanctl.queue.states import Spec
from elmanctl.records import Budget, Training, Trial


def snapshot(place, number, old=True):
    """Make a snapshot of a kilobyte in a folder of runs, and return its name."""
    name = f"{number:016x}"
    folder = Path(place) / ".snapshots" / name
    folder.mkdir(parents=True)
    (folder / "file").write_text("x" * 1000)
    if old:
        os.utime(folder, (0, 0))
    return name


def job(run, label, name):
    """Queue a row that was taken from a snapshot."""
    trial = Trial(label=label, model="M", dim=8, depth=1, params=1, budget=Budget(steps=7), training=Training())
    queue = Queue(Path(run)).refresh()
    queue.write("enqueue", label, spec=Spec(trial=trial, folder=label, snapshot=name))
    return queue


def listed(project, *folder):
    return [found["path"] for found in json.loads(project.run("runs", "gc", *folder, "--json").out)]


def test_gc_lists_and_deletes_what_nobody_needs(project, monkeypatch):
    """Needed: by what waits, by what was stopped and may be resumed, and by a bench that may just be in its preflight."""
    waits, stopped, cancelled, nobody, today = (snapshot("runs", n, n != 5) for n in range(1, 6))
    for label, name in {"a": waits, "b": stopped, "c": cancelled}.items():
        queue = job("runs/night", label, name)
    queue.write("end", "b", status="interrupted", ask="stop")
    queue.write("end", "c", status="interrupted", ask="cancel")
    half = Path(f"runs/.snapshots/.{nobody}.123-0123abcd")  # of a bench that was killed
    half.mkdir()
    os.utime(half, (0, 0))
    Path("runs/night/previous/b-1").mkdir(parents=True)
    (Path("runs/night/previous/b-1") / "file").write_text("x" * 1000)
    found = json.loads(project.run("runs", "gc", "--json").out)
    gone = [str(half), f"runs/.snapshots/{cancelled}", f"runs/.snapshots/{nobody}", "runs/night/previous"]
    sizes = [0, 1000, 1000, 1000]
    assert [(f["path"], f["bytes"], f["deleted"]) for f in found] == [
        (path, size, False) for path, size in zip(gone, sizes, strict=True)
    ]
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", mock.Mock(side_effect=OSError(30, "Read-only file system")))
        ran = project.run("runs", "gc", "--delete")
    assert ran.code == 2 and f"{half} cannot be deleted: Read-only file system" in ran.err
    ran = project.run("runs", "gc", "--delete")
    assert "deleted" in ran.err and not any(Path(path).exists() for path in gone)
    assert listed(project) == []
    assert {path.name for path in Path("runs/.snapshots").iterdir()} == {waits, stopped, today}


def test_a_folder_that_is_not_a_runs_is_never_taken(project):
    for place in ("backups/previous", "backups/.snapshots/1", "runs/.snapshots/thesis", "runs/previous"):
        project.write(f"{place}/thesis.tex", "x")
        os.utime(place, (0, 0))
    project.write("elsewhere/thesis.tex", "x")
    project.write("runs/linked/run.json", "{}")
    Path("runs/linked/previous").symlink_to(Path("elsewhere").absolute())
    for folder in (".", "runs", "backups"):
        ran = project.run("runs", "gc", folder, "--delete")
        assert ran.code == 0 and "0 B deleted" in ran.err
    assert len(list(Path().rglob("thesis.tex"))) == 5


@pytest.mark.parametrize("folder", [".", "runs"])
def test_runs_at_any_depth_lose_what_they_do_not_need_and_keep_what_they_do(project, folder):
    needed, old = snapshot("runs/2026/may", 1), snapshot("runs/2026/may", 2)
    job("runs/2026/may/night", "a", needed)
    linked = snapshot("runs", 3)
    job("scratch/far", "a", linked)
    Path("runs/far").symlink_to(Path("scratch/far").absolute())
    project.write("runs/2026/may/night/previous/a-1/file", "x")
    wanted = ["runs/2026/may/.snapshots/" + old, "runs/2026/may/night/previous"]
    assert listed(project, folder) == wanted
    project.run("runs", "gc", folder, "--delete")
    assert listed(project, folder) == [] and not Path(wanted[1]).exists()
