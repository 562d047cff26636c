"""What is tried before anything is queued."""

import json
import shutil
from types import SimpleNamespace

import msgspec
import pytest

from elmanctl.errors import CheckFailed, UserError
from elmanctl.files import read_json
from elmanctl.gpus import locks
from elmanctl.gpus.choice import Pool
from elmanctl.queue import preflight
from elmanctl.queue.fit import Fit, asked
from elmanctl.queue.log import Queue
from elmanctl.records import Budget, Result, Training, Trial

TRIAL = Trial(
    label="a", model="M", dim=8, depth=1, params=100_000_000, budget=Budget(minutes=10), training=Training(batch=32)
)
OK = Result(status="ok", steps=1, tokens=1, seconds=1.0, peak_memory_bytes=2**30)


@pytest.fixture
def step(monkeypatch):
    """Replace the step itself: `fits` is the largest number of rows that a device takes at once."""
    fake = SimpleNamespace(fits=32, seen=[])

    def run_step(trial, folder, device, environment):
        fake.seen.append((trial.label, device, trial.micro_batches))
        oom = trial.training.batch // trial.micro_batches > fake.fits
        return msgspec.structs.replace(OK, status="oom", message="Out of memory") if oom else OK

    monkeypatch.setattr(preflight, "run_step", run_step)
    return fake


def test_every_row_takes_one_step_and_the_folder_of_the_moment_goes(step, tmp_path):
    trials = [msgspec.structs.replace(TRIAL, label=label) for label in "abc"]
    found = preflight.steps(trials, ["CPU"], {}, tmp_path / "runs")
    assert [(f.label, f.status, f.peak_memory, f.micro_batches) for f in found] == [(x, "ok", 2**30, 1) for x in "abc"]
    assert {device for _, device, _ in step.seen} == {"CPU"} and list((tmp_path / "runs").iterdir()) == []


def test_one_seed_of_a_row_shows_what_the_others_need(step, tmp_path):
    trials = [msgspec.structs.replace(TRIAL, label=label) for label in ("b", "a", "a seed 43", "a seed 44")]
    groups = {"a": "a", "a seed 43": "a", "a seed 44": "a", "b": ""}
    found = preflight.steps(trials, ["CPU"], {}, tmp_path, groups)
    assert sorted(seen[0] for seen in step.seen) == ["a", "b"]
    assert [f.label for f in found] == [t.label for t in trials] and len({f.peak_memory for f in found[1:]}) == 1


def test_a_batch_that_does_not_fit_gives_up_time_for_memory_until_it_does(step, tmp_path, capsys):
    step.fits = 9
    (found,) = preflight.steps([TRIAL], ["CPU"], {}, tmp_path)
    assert (found.status, found.fit) == ("ok", Fit(8, TRIAL.depth, 4))
    assert "1 of 1 layers checkpointed, 4 micro-batches of 8 rows" in capsys.readouterr().err


def test_an_error_of_the_code_is_not_tried_again(step, tmp_path, monkeypatch):
    failed = msgspec.structs.replace(OK, status="failed", message="a mistake")
    monkeypatch.setattr(preflight, "run_step", lambda *facts: (step.seen.append(facts), failed)[1])
    (found,) = preflight.steps([TRIAL], ["CPU"], {}, tmp_path)
    assert (found.status, found.fit, found.message, len(step.seen)) == ("failed", Fit(), "a mistake", 1)


def test_the_smallest_of_the_gpus_is_what_a_row_must_fit(box):
    assert preflight.capacity(["CPU"]) is None
    sizes = [preflight.capacity([f"GPU-{i}"]) for i in range(8)]
    assert preflight.capacity(["GPU-0", "GPU-2"]) == min(sizes[0], sizes[2]) > 0


def test_a_row_that_does_not_run_refuses_them_all(step, tmp_path):
    step.fits = 1
    found = preflight.steps([TRIAL, msgspec.structs.replace(TRIAL, label="b")], ["CPU"], {}, tmp_path)
    with pytest.raises(CheckFailed, match="a: oom. Out of memory\nb: oom(.|\n)*before anything is queued"):
        preflight.check(found)
    assert list(tmp_path.iterdir()) == []


def test_gpus_are_locked_meanwhile_and_one_that_is_locked_is_left_out(step, box, tmp_path, monkeypatch):
    held = locks.acquire("GPU-0", "somebody else")
    real = preflight.run_step
    seen = []
    monkeypatch.setattr(preflight, "run_step", lambda *facts: (seen.append(locks.holder("GPU-2")), real(*facts))[1])
    preflight.steps([TRIAL], ["GPU-0", "GPU-2"], {}, tmp_path)
    assert {device for _, device, _ in step.seen} == {"GPU-2"} and seen[0].what == "preflight"
    assert locks.holder("GPU-2") is None
    with pytest.raises(CheckFailed, match="locked just now"):
        preflight.steps([TRIAL], ["GPU-0"], {}, tmp_path)
    locks.release(held)


def test_a_disk_that_is_too_small_is_refused_with_what_is_needed(tmp_path, monkeypatch):
    need = preflight.disk([TRIAL] * 3, devices=2, checkpoint_seconds=300)
    checkpoint = 100_000_000 * 12
    assert need == pytest.approx(2 * 3 * checkpoint + 3 * 60_000 * 150)
    assert preflight.disk([TRIAL], 1, 0) < checkpoint
    kept = msgspec.structs.replace(TRIAL, training=Training(checkpoint_every=10))
    assert preflight.disk([kept] * 3, 2, 0) > 9 * checkpoint
    preflight.check_disk(tmp_path / "not" / "yet", 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2**30))
    with pytest.raises(UserError, match="may need 6.73 GiB.*the disk has 1 GiB free.*--checkpoint-minutes 0"):
        preflight.check_disk(tmp_path, need)


SUITE = """
description: two toys
depth: 2
matched: false
device: cpu
budget: {steps: 8}
training: {batch: 4, chunk: 16, eval_batches: 1}
rows: [{label: a, model: Toy, dim: 16}, {label: b, model: "Toy:break_at=1", dim: 16}]
"""


def test_a_bench_with_a_row_that_breaks_queues_nothing(trainee, step):
    trainee.project.write("suites/toys.yaml", SUITE)
    step.fits = 0
    ran = trainee.run("bench", "toys", "--run", "r")
    assert ran.code == 1 and "b: oom" in ran.err and "before anything is queued" in ran.err
    assert not (trainee.folder / "runs/r").exists()
    step.fits = 2
    (row,) = json.loads(trainee.run("bench", "toys", "--preflight-only", "--only", "a", "--json").out)
    assert {k: row[k] for k in ("label", "dim", "depth", "status", "peak_memory", "micro_batches", "message")} == {
        "label": "a", "dim": 16, "depth": 2, "status": "ok", "peak_memory": 2**30, "micro_batches": 2, "message": ""
    }  # fmt: skip
    out = trainee.run("bench", "toys", "--preflight-only").out
    assert "1 GiB" in out and "2 of 2 layers checkpointed" in " ".join(out.split())
    assert not (trainee.folder / "runs/r").exists()
    step.fits = 0
    ran = trainee.run("bench", "toys", "--preflight-only", "--run", "r")
    assert ran.code == 1 and "oom" in ran.out and "b: oom. Out of memory" in ran.err
    assert [row["status"] for row in json.loads((trainee.folder / "runs/r/preflight.json").read_text())] == [
        "oom",
        "oom",
    ]


def test_what_a_row_needs_to_fit_is_in_the_trial_that_is_queued(trainee, step, monkeypatch):
    from elmanctl.queue.scheduler import Scheduler

    trainee.project.write("suites/toys.yaml", SUITE)
    monkeypatch.setattr(Scheduler, "run", lambda self, labels: None)
    step.fits = 2
    trainee.run("bench", "toys", "--run", "r", "--only", "a")
    job = Queue(trainee.folder / "runs/r").refresh().jobs["a"]
    assert asked(job.spec.trial) == Fit(8, 2, 2) and job.micro_batches == 2
    (row,) = json.loads((trainee.folder / "runs/r/preflight.json").read_text())
    assert (row["loss_chunks"], row["checkpoint_layers"], row["micro_batches"]) == (8, 2, 2)


def test_a_suite_is_sized_anew_and_a_row_without_a_legal_size_is_named(trainee, step):
    small = SUITE.replace("matched: false", "tolerance: 20%\nalign: 16\nparams: 20K").replace(", dim: 16", "")
    trainee.project.write("suites/toys.yaml", small.replace("rows: [", "rows: [{model: gru, label: odd, depth: 60}, "))
    ran = trainee.run("bench", "toys", "--preflight-only", "--params", "40K", "--json")
    assert ran.out, ran.err
    rows = {row["label"]: row for row in json.loads(ran.out)}
    assert ran.code == 0 and [rows[x]["status"] for x in ("odd", "a", "b")] == ["not sized", "ok", "ok"]
    assert "40K parameters are out of reach at depth 60: the smallest legal width, 16" in rows["odd"]["message"]
    assert all(abs(rows[x]["params"] / 40_000 - 1) < 0.2 for x in "ab")
    assert {label for label, _, _ in step.seen} == {"a", "b"}
    for command, says in {
        "no-such-command x": "no command no-such-command",
        "echo 'x": "No closing quotation",
        "": "''",
    }.items():
        refused = trainee.run("bench", "toys", "--on-end", command)
        assert refused.code == 2 and says in refused.err and "--on-end" in refused.err
    refused = trainee.run("bench", "toys", "--params", "40K")
    assert refused.code == 2 and "--params goes with --preflight-only or --dry-run" in refused.err


def test_a_real_step_of_each_row_on_the_cpu(trainee):
    """Nothing is replaced here: processes, sizes and peaks are real."""
    text = SUITE.replace("matched: false", "tolerance: 40%\nalign: 16\nparams: 20K").replace(", dim: 16", "")
    trainee.project.write("suites/toys.yaml", text.replace('{label: b, model: "Toy:break_at=1"}', "{model: gru}"))
    ran = trainee.project.start("bench", "toys", "--preflight-only", "--params", "200K", "--json")
    rows = json.loads(ran.out)
    assert ran.code == 0, ran.err
    assert [(row["label"], row["status"]) for row in rows] == [("a", "ok"), ("gru", "ok")]
    assert all(row["peak_memory"] > 2**20 and abs(row["params"] / 2e5 - 1) < 0.4 for row in rows)


def test_trials_run_from_the_sources_of_when_they_were_queued(trainee, tmp_path, monkeypatch):
    """The variant is broken after the run was queued: the trial does not notice, and says what it ran from."""
    from elmanctl.queue.scheduler import Scheduler

    copy = tmp_path / "mine"
    shutil.copytree(trainee_variants(), copy)
    monkeypatch.setenv("ELMANCTL_VARIANTS", str(copy))
    trainee.project.write("suites/toys.yaml", SUITE)
    monkeypatch.setattr(Scheduler, "run", lambda self, labels: None)
    ran = trainee.run("bench", "toys", "--run", "r", "--only", "a", "--on-end", "sh -c 'echo $ELMANCTL_OK > told'")
    assert ran.code == 1 and "a: unfinished" in ran.err
    assert (trainee.folder / "told").read_text() == "0\n"
    for path in copy.rglob("*.py"):
        path.write_text("raise RuntimeError('edited')\n")
    monkeypatch.undo()
    trainee.project.write("suites/toys.yaml", "broken: yes")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(trainee.folder)
    ran = trainee.run("bench", "--resume", "r", "--on-end", "sh -c 'echo $ELMANCTL_OK > told'")
    assert ran.code == 0, ran.err
    assert (trainee.folder / "told").read_text() == "1\n"
    assert read_json(trainee.folder / "runs/r/a/result.json", Result).steps == 8
    job = Queue(trainee.folder / "runs/r").refresh().jobs["a"]
    kept = trainee.folder / "runs/.snapshots" / job.spec.snapshot
    assert {path.name for path in kept.iterdir()} == {"elmanctl", "csrc_common", "variants", "suites", "versions.txt"}
    assert (kept / "suites/toys.yaml").read_text().strip() == SUITE.strip()
    assert not list(kept.rglob("__pycache__")) and "numpy==" in (kept / "versions.txt").read_text()


def trainee_variants():
    from pathlib import Path

    return Path(__file__).parent.parent / "trainees"


def test_a_gpu_in_use_is_not_stepped_on_by_preflight_either(box, capsys):
    assert preflight.free_now(Pool(("GPU-1", "GPU-2", "GPU-3"))) == ["GPU-2"]
    assert preflight.free_now(Pool(("GPU-1", "GPU-3"))) == []
    assert "No GPU is free now" in capsys.readouterr().err
