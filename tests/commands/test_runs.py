import json
import shutil
from pathlib import Path

from elmanctl import train
from elmanctl.files import write_json


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
        import subprocess
        import sys

        assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
