"""The scheduler where something ends before its time: an interrupt, a terminal, a supervisor, a disk that is full."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from elmanctl.files import read_json
from elmanctl.gpus.choice import Pool
from elmanctl.queue import process, scheduler
from elmanctl.queue.log import Queue
from elmanctl.records import Result

ONE = Pool(("GPU-0",))
SLEEP = "sleep 60 & echo $! > $1/pid.new; mv $1/pid.new $1/pid; wait"


def gone(pid):
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_stops_what_runs_in_good_order_and_keeps_what_was_finished(line, number):
    line.add("a")
    line.add(
        "b",
        "trap 'sed s/ok/interrupted/ $1/../ok.json > $1/result.json; exit 1' INT; touch $1/up; while :; do sleep 0.05; done",
    )
    line.add("c")
    before = signal.getsignal(signal.SIGTERM)

    def observe(now):
        if (line.run / "b/up").exists() and not now.queue.jobs["b"].asked and now.queue.jobs["b"].state == "running":
            os.kill(os.getpid(), number)

    now = line.scheduler(observe=observe)
    now.queue.refresh()
    with pytest.raises(KeyboardInterrupt):
        now.run({"a", "b", "c"})
    assert signal.getsignal(signal.SIGTERM) is before
    jobs = line.queue.refresh().jobs
    assert {name: (job.state, job.status) for name, job in jobs.items()} == {
        "a": ("ended", "ok"), "b": ("ended", "interrupted"), "c": ("queued", "")
    }  # fmt: skip
    assert read_json(line.run / "b/result.json", Result).steps == 7


def test_a_second_interrupt_ends_the_whole_tree(line):
    line.add(script=f"trap '' INT TERM; {SLEEP}; sleep 60")
    asked = []

    def observe(now):
        if (line.run / "a/pid").exists() and now.queue.jobs["a"].state == "running" and len(asked) < 2:
            asked.append(1)
            raise KeyboardInterrupt

    now = line.scheduler(observe=observe)
    now.queue.refresh()
    with pytest.raises(KeyboardInterrupt):
        now.run({"a"})
    assert len(asked) == 2
    line.until(lambda: gone(int((line.run / "a/pid").read_text())))
    assert (line.job().state, line.job().status) == ("ended", "interrupted")


def test_a_terminal_that_goes_away_stops_nothing(line):
    line.add(script="touch $1/up; sleep 1; cp $1/../ok.json $1/result.json")
    line.add("b")
    code = (
        "import sys; from pathlib import Path; from elmanctl.queue import live, log, scheduler\n"
        "queue = log.Queue(Path(sys.argv[1])).refresh()\n"
        "with live.Watch() as watch: scheduler.Scheduler(queue, watch.observe).run(set(queue.jobs))\n"
    )
    bench = subprocess.Popen(
        [sys.executable, "-c", code, str(line.run)], stderr=subprocess.PIPE, start_new_session=True
    )
    line.until((line.run / "a/up").exists)
    bench.stderr.close()
    os.killpg(bench.pid, signal.SIGHUP)
    assert bench.wait(timeout=60) == 0
    assert {job.status for job in line.queue.refresh().jobs.values()} == {"ok"}


def test_a_trial_of_another_machine_is_left_to_it(line):
    line.add()
    line.queue.write("start", "a", device="CPU")
    there = process.Identity(1, 1, "faraway 0")
    line.queue.write("run", "a", supervisor=there, child=there)
    now = line.scheduler()
    now.queue.refresh()
    now.tick()
    assert line.job().state == "running" and now.waiting["a"] == "runs on another machine (faraway)"


def test_a_supervisor_that_cannot_work_is_not_started_for_ever(line):
    line.add()
    (line.run / "a").mkdir()
    (line.run / "a" / "trial.json").mkdir()  # cannot be written over
    line.go()
    assert line.job().status == "failed" and line.job().attempt == 4
    assert "supervisor.log" in read_json(line.run / "a/result.json", Result).message
    assert "trial.json could not be written" in (line.run / "a/supervisor.log").read_text()


@pytest.mark.parametrize("what", ["the log", "a folder", "a lost supervisor's"])
def test_a_disk_that_is_full_for_a_while_is_said_and_waited_for(line, monkeypatch, what):
    """The log cannot be written, or no supervisor started, or none in the place of one that was killed: bench does not give up."""
    line.add()
    trouble = [OSError(28, "No space left on device")] * 5
    module, name = (Queue, "_append") if what == "the log" else (scheduler, "spawn")
    real = getattr(module, name)

    def full(*arguments):
        if trouble:
            error = trouble.pop()
            raise arguments[0]._failed(error) if what == "the log" else error
        return real(*arguments)

    monkeypatch.setattr(scheduler, "ADOPT_SECONDS", 0.0)
    if what == "a lost supervisor's":
        gone = subprocess.Popen(["true"])
        who = process.of(gone.pid) or process.Identity(gone.pid, 1, process.boot())
        gone.wait()
        line.queue.write("start", "a", device="CPU")
        line.queue.write("run", "a", supervisor=who, child=who)
    monkeypatch.setattr(module, name, full)
    if what == "a folder":
        del trouble[2:]  # an attempt that could not be begun counts as failed
    seen = []
    now = line.scheduler(observe=lambda now: seen.append(now.waiting.get("a", "")))
    now.queue.refresh()
    now.run({"a"})
    assert line.job().status == "ok" and any("No space left on device" in text for text in seen)


def test_ctrl_c_does_not_wait_for_a_job_that_could_not_be_begun(line):
    """Something is in the place of its folder, so that no supervisor could start: nothing runs that could still end."""
    line.add()
    (line.run / "a").write_text("in the way")

    def observe(now):
        if "File exists" in now.waiting.get("a", ""):
            os.kill(os.getpid(), signal.SIGTERM)

    now = line.scheduler(observe=observe)
    now.queue.refresh()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        now.run({"a"})
    assert time.monotonic() - began < 10
    (line.run / "a").unlink()
    line.go()
    assert line.job().status == "ok"
