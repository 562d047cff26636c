"""`elmanctl bench`: plans, refusals, joined runs, and real trials on the CPU."""

import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import msgspec
import psutil
import pytest

from elmanctl.files import read_json
from elmanctl.queue import preflight, process, scheduler, settle
from elmanctl.queue.log import Queue
from elmanctl.records import Result, Trial
from elmanctl.toolchain import device_target
from elmanctl.verify import receipt

MINE = """
description: two small cells
params: 60K
depth: 2
align: 16
tolerance: 30%
device: cpu
budget: {steps: 25}
training: {batch: 2, chunk: 8, eval_batches: 1, data: data/text}
rows: [{model: gru}, {model: E42}]
"""


@pytest.fixture
def mine(project):
    """A project with a suite of two rows for the CPU and a data file long enough for it."""
    project.write("suites/mine.yaml", MINE)
    project.write("suites/big.yaml", MINE.replace("device: cpu\n", ""))
    project.write("data/text", "some text to learn from, again and again\n" * 200)
    return project


@pytest.fixture
def trials(monkeypatch):
    """Replace supervisors: each trial ends at once with the result that `ends` holds for its label, ok by default.

    `seen` lists label and device of the launches.
    """
    fake = SimpleNamespace(ends={}, seen=[])

    def spawn(run, job, lock=None):
        fake.seen.append((job.label, job.device))
        folder = run / job.spec.folder
        folder.mkdir(exist_ok=True)
        (folder / "trial.json").write_bytes(msgspec.json.encode(job.spec.trial))
        result = Result(
            status="ok", steps=25, tokens=400, seconds=1.0, tokens_per_second=400.0, peak_memory_bytes=2**20
        )
        if (end := fake.ends.get(job.label, {})) is not None:
            (folder / "result.json").write_bytes(msgspec.json.encode(msgspec.structs.replace(result, **end)))
        queue = Queue(run).refresh()
        job = queue.write("run", job.label, supervisor=process.me(), child=process.me())
        verdict = settle.verdict(job, folder, code=3)
        queue.write(verdict.step, job.label, **verdict.facts)
        return subprocess.Popen(["true"])

    monkeypatch.setattr(preflight, "steps", lambda *_: [])
    monkeypatch.setattr(scheduler, "spawn", spawn)
    monkeypatch.setattr(scheduler, "POLL_SECONDS", 0.01)
    return fake


def test_a_dry_run_shows_rows_sizes_and_gpus_where_there_is_none(project, monkeypatch):
    monkeypatch.setenv("ELMANCTL_NVML", "absent")
    ran = project.run("bench", "e88_vs_baselines", "--gpus", "0-5", "--dry-run")
    assert ran.code == 0 and "E88h8n32" in ran.out and "99.06M" in ran.out
    assert "Not ready: There is no GPU here" in ran.err
    assert not (project.path / "runs").exists()
    data = json.loads(project.run("bench", "e88_vs_baselines", "--gpus", "0,3", "--dry-run", "--json").out)
    sized = [row for row in data["rows"] if row["params"]]
    assert [row["device"] for row in sized][:3] == ["GPU 0", "GPU 3", "when one is free"]
    assert all(row["budget"] == "10 minutes" and row["batch"] == 32 for row in sized)
    call = ["bench", "e88_vs_baselines", "--gpus-per-trial", "2", "--dry-run", "--json", "--gpus"]
    data = json.loads(project.run(*call, "0-3").out)
    assert [row["device"] for row in data["rows"] if row["params"]][:3] == [
        "GPU 0, GPU 1",
        "GPU 2, GPU 3",
        "when one is free",
    ]
    data = json.loads(project.run(*call, "0").out)
    assert "A trial takes 2 GPUs and the run may use 1. Choose more" in " ".join(data["obstacles"])


@pytest.mark.parametrize("seen", [True, False])
def test_the_receipt_of_a_row_is_looked_up_for_the_target_that_verify_writes(mine, box, monkeypatch, seen):
    made = SimpleNamespace(source_hash="0123456789abcdef")
    monkeypatch.setattr(receipt, "find", lambda spec, target: made if target == device_target(9, 0) else None)
    if not seen:
        box.file.unlink()
    plan = json.loads(mine.run("bench", "big", "--dry-run", "--json").out)
    assert {row["label"]: row["receipt"] for row in plan["rows"]} == {"gru": "", "E42": "0123456789ab"}


def test_without_a_gpu_a_suite_for_gpus_is_refused_with_what_runs_instead(mine, monkeypatch):
    monkeypatch.setenv("ELMANCTL_NVML", "absent")
    ran = mine.run("bench", "big")
    assert ran.code == 2 and "elmanctl bench smoke" in ran.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--gpus", "9"], "there is no GPU 9; this machine has GPUs 0 to 7"),
        (["--gpus", "5-0"], "runs backwards. Try 0-5"),
        (["--gpus", "0,1"], "GPU 1 is in use by another process"),
        (["--gpus", "all"], "Choose with --gpus 0,2,5,6,7"),
        (["--steps", "5", "--minutes", "1"], "exactly one budget"),
        (["--steps", "0"], "steps=0 is not a positive number"),
        (["--tokens", "5Q"], "--tokens 5Q"),
        (["--only", "gruu"], "big has no such row. Close: gru"),
        (["--batch-sizes", "8,x"], "--batch-sizes 8,x"),
        (["--batch-sizes", "0"], "positive whole numbers"),
        (["--batch-sizes", "8", "--steps", "9"], "Leave --minutes, --steps and --tokens out"),
        (["--run", "../elsewhere"], "not a plain folder name"),
    ],
)
def test_bad_input(mine, box, trials, arguments, says):
    ran = mine.run("bench", "big", *arguments)
    assert ran.code == 2 and says in ran.err and not trials.seen


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "data/text does not exist"), ("", "is empty"), ("short", "need about"), (..., "is a folder")],
)
def test_data_that_cannot_be_trained_on_is_refused_before_anything_starts(mine, trials, content, says):
    path = mine.path / "data" / "text"
    path.unlink()
    if content is ...:
        path.mkdir()
    elif content is not None:
        path.write_text(content)
    ran = mine.run("bench", "mine")
    assert ran.code == 2 and says in " ".join(ran.err.split()) and not trials.seen
    assert mine.run("bench", "mine", "--dry-run").code == 0


@pytest.fixture
def vouched(monkeypatch):
    """Let every kernel have a receipt for every target."""
    monkeypatch.setattr(receipt, "find", lambda spec, target: SimpleNamespace(source_hash="0123456789abcdef"))


@pytest.mark.parametrize("state", ["none", "stale", "red"])
def test_a_kernel_without_a_device_receipt_is_refused_unless_its_row_is_marked_for_good(
    mine, box, trials, monkeypatch, state
):
    monkeypatch.setattr(receipt, "find", lambda spec, target: None)
    monkeypatch.setattr(receipt, "state", lambda spec, target: state)
    ran = mine.run("bench", "big", "--run", "r")
    target = device_target(9, 0)
    assert ran.code == 2 and f"No receipt for {target} vouches for E42 ({state})" in ran.err and not trials.seen
    assert "--unverified" in ran.err and not (mine.path / "runs").exists()
    assert "Not ready: No receipt" in mine.run("bench", "big", "--dry-run").err
    assert mine.run("bench", "big", "--run", "r", "--unverified").code == 0
    monkeypatch.setattr(receipt, "state", lambda spec, target: "green")
    report = json.loads(mine.run("report", "r", "--json").out)
    assert {row["model"]: row["receipt"] for row in report["rows"]}["E42"] == "unverified"
    assert any("No receipt vouched for the kernel of E42" in note for note in report["notes"])
    assert [row["receipt"] for row in report["rows"] if row["model"] == "gru"] != ["unverified"]
    assert "unverified" in (mine.path / "runs/r/report.md").read_text()


def test_trials_go_to_the_free_gpus_by_uuid(mine, box, trials, vouched):
    ran = mine.run("bench", "big", "--run", "r")
    assert ran.code == 0
    assert {device for _, device in trials.seen} == {"GPU-0", "GPU-2"}
    trial = read_json(mine.path / "runs/r/gru/trial.json", Trial)
    assert trial.device == "cuda" and trial.suite == "big" and trial.training.batch == 2


def test_rows_of_several_calls_join_one_run_and_finished_ones_stay(mine, trials):
    assert mine.run("bench", "mine", "--only", "E42", "--run", "r").code == 0
    assert mine.run("bench", "mine", "--run", "r", "--json").code == 0
    assert [label for label, _ in trials.seen] == ["E42", "gru"]
    ran = mine.run("bench", "mine", "--run", "r", "--only", "gru", "--steps", "30")
    assert "gru is finished, with other settings than now; --again runs it anew" in " ".join(ran.err.split())
    assert [label for label, _ in trials.seen] == ["E42", "gru"]
    mine.run("bench", "mine", "--run", "r", "--only", "gru", "--steps", "30", "--again")
    assert [label for label, _ in trials.seen] == ["E42", "gru", "gru"]
    assert read_json(mine.path / "runs/r/gru/trial.json", Trial).budget.steps == 30
    assert read_json(mine.path / "runs/r/previous/gru-1/trial.json", Trial).budget.steps == 25
    data = json.loads(mine.run("report", "r", "--json").out)
    assert {row["label"]: row["differs"] for row in data["rows"]}["gru"] or any("budget" in n for n in data["notes"])


def test_a_run_of_another_suite_is_not_joined(mine, trials):
    mine.run("bench", "mine", "--run", "r")
    mine.write("suites/other.yaml", MINE)
    ran = mine.run("bench", "other", "--run", "r")
    assert ran.code == 2 and "holds a run of suite mine" in ran.err


def test_a_row_that_is_not_ok_gives_exit_1_and_is_run_anew_next_time(mine, trials):
    trials.ends = {"gru": {"status": "diverged"}, "E42": None}
    ran = mine.run("bench", "mine", "--run", "r")
    assert ran.code == 1 and "gru: diverged" in ran.err and "E42: failed" in ran.err
    assert "diverged at step 26" in ran.out
    trials.ends = {}
    assert mine.run("bench", "mine", "--run", "r").code == 0


def test_the_end_is_told_and_a_damaged_record_named_also_where_the_report_cannot_be_written(mine, trials):
    mine.run("bench", "mine", "--run", "r")
    (mine.path / "runs/r/gru/result.json").write_text("{")
    (mine.path / "runs/r/report.md").unlink()
    (mine.path / "runs/r/report.md").mkdir()
    ran = mine.run("bench", "--resume", "r", "--on-end", "sh -c 'echo $ELMANCTL_OK $ELMANCTL_NOT_OK > told'")
    assert ran.code == 2 and "report.md could not be written" in ran.err
    assert (mine.path / "told").read_text() == "0 gru: unfinished\n"
    (mine.path / "runs/r/report.md").rmdir()
    ran = mine.run("bench", "--resume", "r")
    assert ran.code == 1 and "gru/result.json is not a Result record" in " ".join(ran.out.split())


def test_an_absent_package_is_a_failed_row_with_its_install_line_and_the_others_run(mine, trials, monkeypatch):
    from elmanctl.variant import Variant

    monkeypatch.setattr(Variant, "missing", lambda self: ["cudnn"] if self.name == "gru" else [])
    ran = mine.run("bench", "mine", "--run", "r")
    assert ran.code == 1 and [label for label, _ in trials.seen] == ["E42"]
    data = json.loads(mine.run("report", "r", "--json").out)
    rows = {row["label"]: row for row in data["rows"]}
    assert rows["gru"]["status"] == "failed" and "gru needs cudnn" in rows["gru"]["message"]
    assert rows["gru"]["params"] is None and rows["E42"]["status"] == "ok"


def test_batch_sizes_make_their_own_table(mine, trials):
    trials.ends = {"E42@64": {"status": "oom", "tokens_per_second": None, "message": "out of memory"}}
    ran = mine.run("bench", "mine", "--batch-sizes", "8,64", "--run", "b")
    assert ran.code == 1 and "batch 64" in ran.out and "oom" in ran.out and "E42@64: oom" in ran.err
    trial = read_json(mine.path / "runs/b/gru_8/trial.json", Trial)
    assert (trial.training.batch, trial.budget.steps, trial.training.eval_batches) == (8, 60, 0)
    assert "| gru | 400 tok/s, 1 MiB | 400 tok/s, 1 MiB |" in (mine.path / "runs/b/report.md").read_text()


def test_an_unmatched_row_stops_the_suite(mine, trials):
    mine.write("suites/off.yaml", MINE.replace("{model: gru}", "{model: gru, dim: 256}"))
    ran = mine.run("bench", "off")
    assert ran.code == 2 and "gru 256x2 has" in ran.err and not trials.seen


def test_a_real_run_on_the_cpu_ends_with_a_report(mine):
    ran = mine.start("bench", "mine", "--run", "r", "--no-preflight", OMP_NUM_THREADS="1")
    assert ran.code == 0, ran.err
    assert "gru: ok after 25 steps" in ran.err and "E42: ok after 25 steps" in ran.err
    report = (mine.path / "runs/r/report.md").read_text()
    assert "| E42 |" in report and "| gru |" in report and " reference |" in report
    steps = (mine.path / "runs/r/E42/steps.jsonl").read_text().splitlines()
    assert len(steps) == 25 and json.loads(steps[0])["tokens"] == 16


def test_ctrl_c_stops_the_trial_keeps_its_records_and_resume_goes_on(mine):
    cut = mine.path / "runs/r/gru/steps.jsonl"
    bench = start(mine, "bench", "mine", "--steps", "3000", "--run", "r", "--no-preflight")
    wait(lambda: cut.exists() and cut.stat().st_size, bench)
    children = psutil.Process(bench.pid).children(recursive=True)
    assert children
    bench.send_signal(signal.SIGINT)
    err = bench.communicate(timeout=60)[1].decode()
    assert bench.returncode == 130 and "elmanctl bench --resume r" in " ".join(err.split())
    assert not psutil.wait_procs(children, timeout=10)[1]
    result = read_json(mine.path / "runs/r/gru/result.json", Result)
    assert result.status == "interrupted" and 1 <= result.steps < 3000
    assert not (mine.path / "runs/r/E42").exists()
    job = Queue(mine.path / "runs/r").refresh().jobs["gru"]
    assert (job.state, job.status, job.asked) == ("ended", "interrupted", "stop")
    # To be short, the rest is not trained: what is seen is that it begins where it stopped.
    again = start(mine, "bench", "--resume", "r")
    wait(lambda: len(cut.read_bytes().splitlines()) > result.steps, again)
    assert Queue(mine.path / "runs/r").refresh().jobs["gru"].attempt == 2
    assert "Resuming after step" in (mine.path / "runs/r/gru/log.txt").read_text()
    again.send_signal(signal.SIGINT)
    again.communicate(timeout=60)


def start(mine, *arguments):
    call = [sys.executable, "-c", "from elmanctl.cli import main; main()", *arguments]
    return subprocess.Popen(call, cwd=mine.path, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"})


def wait(condition, process, seconds=90):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)


@pytest.mark.parametrize("more", [["--steps", "5"], ["--gpus", "0"], ["--again"], ["--wait"], ["--only", "gru"]])
def test_resume_takes_nothing_but_the_run(mine, trials, more):
    ran = mine.run("bench", "--resume", "r", *more)
    assert ran.code == 2 and "--resume takes everything from the run's queue" in ran.err


def test_resume_without_a_run_or_a_queue_says_so(mine, trials):
    assert "There is no run" in mine.run("bench", "--resume").err
    mine.run("bench", "mine", "--run", "r")
    ran = mine.run("bench", "--resume", "x")
    assert ran.code == 2 and "There is no run x" in ran.err
    (mine.path / "runs/r/events.jsonl").unlink()
    ran = mine.run("bench", "--resume", "r")
    assert ran.code == 2 and "was not queued by bench" in ran.err
    assert "Name a suite" in mine.run("bench").err


def test_resume_of_a_finished_run_reports_it_again(mine, trials):
    trials.ends = {"gru": {"status": "diverged"}}
    mine.run("bench", "mine", "--run", "r")
    ran = mine.run("bench", "--resume")
    assert ran.code == 1 and "gru: diverged" in ran.err and len(trials.seen) == 2


def test_a_suite_edited_while_queued_changes_nothing_of_what_is_queued(mine, trials):
    mine.run("bench", "mine", "--run", "r")
    queue = Queue(mine.path / "runs/r").refresh()
    queue.write("enqueue", "gru", spec=queue.jobs["gru"].spec)
    mine.write("suites/mine.yaml", MINE.replace("steps: 25", "steps: 99").replace("model: gru", "model: lstm"))
    assert mine.run("bench", "--resume", "r").code == 0
    assert [label for label, _ in trials.seen] == ["gru", "E42", "gru"]
    assert read_json(mine.path / "runs/r/gru/trial.json", Trial).budget.steps == 25


def test_two_runs_of_the_same_second_have_a_folder_each(mine, trials, monkeypatch):
    from elmanctl import plan

    names = [plan.new_folder("mine-1").name for _ in range(3)]
    assert names == ["mine-1", "mine-1-2", "mine-1-3"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["bench"], "Name a suite"),
        (["bench", "smoke", "--shape", "B=3"], "--shape belongs to --kernels"),
        (["bench", "smoke", "--seconds", "9"], "--seconds belongs to --kernels"),
        (["bench", "--kernels", "--minutes", "3"], "--minutes has no meaning"),
        (["bench", "--kernels", "E42", "--shape", "Q=3"], "'Q=3' is none of"),
        (["bench", "--kernels", "E42", "--sweep", "H"], "--sweep H"),
        (["bench", "smoke", "demo"], "runs one suite and was given smoke, demo"),
        (["bench", "smoke", "--against", "E1"], "--against belongs to --kernels"),
        (["bench", "--kernels", "E42", "E33@dim=64", "--against", "E1"], "no model here is one of variant E1"),
        (["bench", "--kernels", "gru"], "no kernel of its own"),
        (["bench", "--kernels", "E42", "--gpus", "0,2"], "names 2 GPUs"),
        (["bench", "--kernels", "E42", "--gpus", "1"], "pid 4000001"),
    ],
)
def test_timing_kernels_refuses_what_it_cannot_do(project, box, arguments, says):
    ended = project.run(*arguments)
    assert ended.code == 2 and says in ended.err


def test_ctrl_c_of_a_bench_that_only_watches_stops_nothing(mine, trials, monkeypatch):
    from elmanctl.gpus import locks
    from elmanctl.queue import live

    mine.run("bench", "mine", "--run", "r", "--only", "gru")
    held = locks.take(mine.path / "runs/r" / scheduler.LOCK, "run r")
    looks = []

    def interrupt(self, now):
        looks.append(now.chief)
        if len(looks) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(live.Watch, "observe", interrupt)
    ran = mine.run("bench", "mine", "--run", "r")
    os.close(held)
    assert ran.code == 130 and "goes on under another bench" in " ".join(ran.err.split()) and "run r" in looks[0]
    assert [label for label, _ in trials.seen] == ["gru"]


def test_seeds_repeat_every_row_and_a_plain_name_means_all_of_them(mine):
    def labels(*arguments):
        ran = mine.run("bench", "mine", "--dry-run", "--json", *arguments)
        return [row["label"] for row in json.loads(ran.out)["rows"]]

    assert labels("--seeds", "3", "--only", "gru") == ["gru", "gru seed 43", "gru seed 44"]
    assert labels("--seeds", "2") == ["gru", "E42", "gru seed 43", "E42 seed 43"]
    assert labels("--seeds", "2", "--batch-sizes", "1,2") == labels("--batch-sizes", "1,2"), "a table takes the first"
    refused = mine.run("bench", "mine", "--seeds", "0")
    assert refused.code == 2 and "--seeds" in refused.err
