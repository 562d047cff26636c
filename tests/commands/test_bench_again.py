"""`elmanctl bench` on a run that there is already: joined, stopped, resumed, watched."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from elmanctl.files import read_json
from elmanctl.queue import scheduler
from elmanctl.queue.log import Queue
from elmanctl.records import Result, Trial


def start(mine, *arguments):
    call = [sys.executable, "-c", "from elmanctl.cli import main; main()", *arguments]
    return subprocess.Popen(call, cwd=mine.path, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"})


def wait(condition, process, seconds=90):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)


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
    mine.write("suites/other.yaml", mine.suite)
    ran = mine.run("bench", "other", "--run", "r")
    assert ran.code == 2 and "holds a run of suite mine" in ran.err


def test_a_row_that_is_not_ok_gives_exit_1_and_is_run_anew_next_time(mine, trials):
    trials.ends = {"gru": {"status": "diverged"}, "E42": None}
    ran = mine.run("bench", "mine", "--run", "r")
    assert ran.code == 1 and "gru: diverged" in ran.err and "E42: failed" in ran.err
    assert "diverged at step 26" in ran.out
    trials.ends = {}
    assert mine.run("bench", "mine", "--run", "r").code == 0


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
    mine.write("suites/mine.yaml", mine.suite.replace("steps: 25", "steps: 99").replace("model: gru", "model: lstm"))
    assert mine.run("bench", "--resume", "r").code == 0
    assert [label for label, _ in trials.seen] == ["gru", "E42", "gru"]
    assert read_json(mine.path / "runs/r/gru/trial.json", Trial).budget.steps == 25


def test_two_runs_of_the_same_second_have_a_folder_each(mine, trials, monkeypatch):
    from elmanctl import plan

    names = [plan.new_folder("mine-1").name for _ in range(3)]
    assert names == ["mine-1", "mine-1-2", "mine-1-3"]


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
