import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from elmanctl import train
from elmanctl.files import read_json, write_json
from elmanctl.queue import scheduler
from elmanctl.queue.log import Queue
from elmanctl.queue.states import Spec
from elmanctl.records import Budget, Result, Training, Trial


def make_runs(trainee):
    for name, trial in (
        ("suite/a", trainee.trial(steps=101, checkpoint_every=100)),
        ("suite/b", trainee.trial("Toy:break_at=3", steps=5)),
        ("c", trainee.trial(steps=4, checkpoint_every=2)),
    ):
        write_json(Path("runs") / name / "trial.json", trial)
        train.run(trial, Path("runs") / name)


def test_ls_shows_each_run_whatever_became_of_it(trainee):
    make_runs(trainee)
    Path("runs/c/result.json").unlink()
    Path("runs/d").mkdir()
    Path("runs/d/trial.json").write_text("{")
    rows = {row["run"]: row for row in json.loads(trainee.run("runs", "ls", "--json").out)}
    facts = {name: (row["status"], row["steps"], row["model"]) for name, row in rows.items()}
    assert facts == {
        "suite/a": ("ok", 101, "Toy"),
        "suite/b": ("diverged", 2, "Toy:break_at=3"),
        "c": ("unfinished", 4, "Toy"),
        "d": ("unreadable", None, None),
    }
    assert rows["suite/a"]["last100_loss"] > 0 and rows["suite/b"]["last100_loss"] is None
    assert "step 3" in rows["suite/b"]["message"] and "is not a Trial record" in rows["d"]["message"]
    ran = trainee.run("runs", "ls")
    assert (
        ran.code == 0 and all(name in ran.out for name in rows) and f"{rows['suite/a']['last100_loss']:.4f}" in ran.out
    )


def test_rescue_reads_names_alone(trainee):
    make_runs(trainee)
    expected = {
        "suite/a": train_loss("runs/suite/a"),
        "c": train_loss("runs/c"),
    }
    for path in Path("runs").rglob("*"):
        if path.is_file():
            path.unlink()
    rows = {row["run"]: row for row in json.loads(trainee.run("runs", "rescue", "--json").out)}
    assert {name: (row["checkpoints"], row["step"]) for name, row in rows.items()} == {"suite/a": (2, 101), "c": (2, 4)}
    for name, loss in expected.items():
        assert rows[name]["loss"] == round(loss, 4)
    shutil.move("runs/c/checkpoints", "copied")
    ran = trainee.run("runs", "rescue", "copied")
    assert ran.code == 0 and f"{expected['c']:.4f}" in ran.out


def train_loss(folder):
    from elmanctl.records import mean_loss, read_steps

    return mean_loss(read_steps(Path(folder) / "steps.jsonl")[-100:])


def test_an_absent_or_empty_folder_says_so(project):
    for verb in ("ls", "rescue"):
        assert project.run("runs", verb).code == 2
        Path("empty").mkdir(exist_ok=True)
        ran = project.run("runs", verb, "empty")
        assert ran.code == 0 and ran.out == "" and "below empty" in ran.err
        assert json.loads(project.run("runs", verb, "empty", "--json").out) == []


def test_listing_does_not_import_torch(project):
    Path("runs").mkdir()
    for verb in ("ls", "rescue"):
        code = f"import sys; from elmanctl import cli; cli.run(['runs', '{verb}']); sys.exit('torch' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


SCRIPT = (
    "trap 'cp $1/../stopped.json $1/result.json; exit 1' INT; echo hello; touch $1/up; while :; do sleep 0.05; done"
)


@pytest.fixture
def night(project, monkeypatch):
    """A run `night` of three jobs in the project: a has a script that runs until it is stopped, b and c end at once."""
    monkeypatch.setattr(scheduler, "POLL_SECONDS", 0.01)
    queue = Queue(Path("runs/night"))
    ok = Result(status="ok", steps=7, tokens=70, seconds=1.0)
    with queue.locked() as file:
        for label, script in (
            ("a", SCRIPT),
            ("b", "cp $1/../ok.json $1/result.json"),
            ("c", "echo last words; exit 3"),
        ):
            trial = Trial(label=label, model="M", dim=8, depth=1, params=1, budget=Budget(steps=7), training=Training())
            spec = Spec(trial=trial, folder=label, command=("sh", "-c", script, "sh"))
            queue.write_locked(file, "enqueue", label, spec=spec)
    write_json(Path("runs/night/ok.json"), ok)
    write_json(Path("runs/night/stopped.json"), msgspec.structs.replace(ok, status="interrupted"))
    return queue


def status(queue):
    return {label: job.status or job.state for label, job in queue.refresh().jobs.items()}


def test_jobs_that_wait_are_held_released_and_cancelled(project, night):
    assert project.run("runs", "hold", "night", "b", "c", "--why", "for Ann").out.splitlines() == ["b: held", "c: held"]
    assert project.run("runs", "hold", "night", "b").out == "b: stays held\n"
    assert project.run("runs", "release", "night", "b").out == "b: queued\n"
    assert json.loads(project.run("runs", "cancel", "night", "a", "c", "--json").out) == {
        "a": "cancelled",
        "c": "cancelled",
    }
    assert project.run("runs", "cancel", "night", "a").out == "a: has ended already (interrupted)\n"
    scheduler.Scheduler(night.refresh()).run({"a", "b", "c"})
    assert status(night) == {"a": "interrupted", "b": "ok", "c": "interrupted"}
    found = {row["run"]: (row["status"], row["steps"]) for row in json.loads(project.run("runs", "ls", "--json").out)}
    assert found["night/a"] == found["night/c"] == ("interrupted", 0)
    assert read_json(Path("runs/night/a/result.json"), Result).message == "cancelled"
    ran = project.run("runs", "hold", "night", "x")
    assert ran.code == 2 and "has no row x" in ran.err and "Rows: a, b, c" in ran.err


def test_a_running_trial_is_cancelled_in_good_order_and_not_resumed(project, night):
    from elmanctl.queue.enqueue import resume

    now = scheduler.Scheduler(night)
    now.tick()
    deadline = time.monotonic() + 20
    while status(night)["a"] != "running" or not Path("runs/night/a/up").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert json.loads(project.run("runs", "show", "night", "--json").out)[0]["state"] == "running"
    assert project.run("runs", "cancel", "night", "a", "--why", "for Ann").out == "a: is being cancelled\n"
    now.run({"a", "b", "c"})
    assert status(night) == {"a": "interrupted", "b": "ok", "c": "failed"}
    result = read_json(Path("runs/night/a/result.json"), Result)
    assert (result.steps, result.message) == (7, "cancelled: for Ann")
    assert {row["row"]: row["why"] for row in json.loads(project.run("runs", "show", "--json").out)}[
        "a"
    ] == result.message
    assert resume("night").labels == set()


def test_show_tells_why_and_the_whole_history(project, night):
    night.write("end", "a", status="interrupted", ask="cancel", why="cancelled")
    scheduler.Scheduler(night.refresh()).run({"b", "c"})
    out = project.run("runs", "show").out
    assert "b" in out and "failed" in out and "The trial ended with exit code 3" in out
    found = json.loads(project.run("runs", "show", "night", "c", "--json").out)
    assert [s["step"] for s in found["steps"]] == ["enqueue", "start", "run", "end"]
    assert found["last_line"] == "last words" and found["result"]["status"] == "failed"
    out = project.run("runs", "show", "night", "c").out
    assert "last words" in out and "ended failed" in out and "enqueue" in out


def test_show_names_a_record_that_cannot_be_read(project, night):
    night.write("end", "a", status="interrupted", ask="cancel", why="cancelled")
    Path("runs/night/a").mkdir()
    Path("runs/night/a/witness.json").write_text('{"verdict": "cl')
    Path("runs/night/a/result.json").write_bytes(b"\xff")
    found = json.loads(project.run("runs", "show", "night", "a", "--json").out)
    assert found["result"] is found["witness"] is None
    assert [text.partition(" is not a ")[2].split()[0] for text in found["problems"]] == ["Result", "Verdict"]
    assert "witness.json is not a Verdict record" in " ".join(project.run("runs", "show", "night", "a").out.split())


def test_logs_are_printed_and_followed_until_the_end(project, night):
    night.write("end", "a", status="interrupted", ask="cancel", why="cancelled")
    follower = subprocess.Popen(
        [sys.executable, "-c", "from elmanctl.cli import main; main()", "runs", "logs", "night", "c", "-f"],
        stdout=subprocess.PIPE,
        text=True,
    )
    time.sleep(0.3)
    scheduler.Scheduler(night.refresh()).run({"b", "c"})
    assert follower.communicate(timeout=30)[0] == "last words\n"
    assert project.run("runs", "logs", "night", "c").out == "last words\n"
    assert project.run("runs", "logs", "night", "c", "-n", "0").out == ""
    ran = project.run("runs", "logs", "night")
    assert ran.code == 2 and "has 3 rows; name one: a, b, c" in ran.err


def test_a_run_without_a_queue_says_so(trainee):
    make_runs(trainee)
    ran = trainee.run("runs", "show", "c")
    assert ran.code == 2 and "has no queue: it is a single trial" in ran.err
    assert trainee.run("runs", "show", "nothing").code == 2


def test_reindex_reads_everything_anew(trainee):
    make_runs(trainee)
    assert trainee.run("runs", "ls").code == 0
    Path("runs/index.sqlite").write_text("damaged " * 100)
    ran = trainee.run("runs", "ls")
    assert ran.code == 0 and "runs reindex" in ran.err and "suite/a" in ran.out
    assert trainee.run("runs", "reindex").err == "" and trainee.run("runs", "ls").err == ""
