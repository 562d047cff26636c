"""Real schedulers, supervisors and trials killed by SIGKILL: afterwards each job ends once, and no trial runs twice.

test_every_write.py does it at every single write, with forks in the place of new processes.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from elmanctl.queue import process, scheduler
from elmanctl.queue.log import Queue

CRASH = Path(__file__).with_name("crash.py")
# Notes when it begins and ends, and whether another one runs at the same time.
TRIAL = "exec 9>$1/alone; flock -n 9 || touch $1/twice; echo >> $1/begun; sleep 0.3; echo >> $1/done; cp $1/../ok.json $1/result.json"
KILLED_ONCE = f"test -e $1/killed || {{ touch $1/killed; kill -9 $$; }}; {TRIAL}"


def count(line, name):
    path = line.run / "a" / name
    return len(path.read_text()) if path.exists() else 0


def crashing(place, times=1):
    """Return a spawn whose first supervisors kill themselves at a place."""
    real, left = scheduler.spawn, [times]

    def spawn(run, job, held=()):
        if not left[0]:
            return real(run, job, held)
        left[0] -= 1
        (run / job.spec.folder).mkdir(exist_ok=True)
        call = [sys.executable, str(CRASH), place, "supervisor", str(run), job.label, str(job.attempt)]
        return subprocess.Popen(call, start_new_session=True)

    return spawn


@pytest.mark.parametrize("place", ["popen", "gate"])
def test_a_killed_supervisor_leaves_a_trial_that_is_begun_once(line, monkeypatch, place):
    monkeypatch.setattr(scheduler, "spawn", crashing(place))
    line.add(script=TRIAL)
    line.go()
    # Killed before the gate is open, it takes its trial with it.
    assert (line.job().state, line.job().status, line.job().attempt) == ("ended", "ok", 1 if place == "gate" else 2)
    assert (count(line, "begun"), count(line, "done"), count(line, "twice")) == (1, 1, 0)
    assert [step for _, step in line.events()].count("end") == 1


def test_a_killed_trial_is_tried_again_though_its_supervisor_dies_as_it_writes_so(line, monkeypatch):
    monkeypatch.setattr(scheduler, "spawn", crashing("write 2"))
    line.add(script=KILLED_ONCE)
    line.go()
    assert (line.job().state, line.job().status, line.job().attempt) == ("ended", "ok", 2)
    assert (count(line, "begun"), count(line, "done"), count(line, "twice")) == (1, 1, 0)
    assert len(line.queue.damaged) == 1


def test_a_killed_scheduler_leaves_trials_that_go_on_and_a_queue_to_go_on_with(line):
    line.add("a", TRIAL)
    line.add("b")
    killed = subprocess.run([sys.executable, str(CRASH), "popen", "scheduler", str(line.run)], timeout=60)
    assert killed.returncode == -signal.SIGKILL
    line.go()
    assert {job.label: job.status for job in line.queue.jobs.values()} == {"a": "ok", "b": "ok"}
    assert (count(line, "begun"), count(line, "done"), count(line, "twice")) == (1, 1, 0)
    assert sorted(line.events()).count(("a", "end")) == 1


def test_a_restarted_machine_is_tried_again(line):
    line.add(script=f"test -e $1/first || {{ touch $1/first; sleep 60; }}; {TRIAL}")
    now = line.scheduler()
    now.tick()
    line.until(lambda: line.job().state == "running" and (line.run / "a/first").exists())
    for who in (line.job().supervisor, line.job().child):
        os.kill(who.pid, signal.SIGKILL)
    line.until(lambda: now._children["a"].poll() is not None)
    os.close(now._lock)
    line.go()
    assert (line.job().status, line.job().attempt, count(line, "done")) == ("ok", 2, 1)
    assert "nobody here asked for" in line.queue.path.read_text()


def test_a_pid_that_was_given_out_again_is_not_taken_for_the_trial(line):
    """The log names a living process with another start: the trial is gone, and the stranger is left alone."""
    stranger = subprocess.Popen(["sleep", "60"], start_new_session=True)
    try:
        line.add(script=TRIAL)
        line.queue.write("start", "a", device="CPU")
        wrong = process.Identity(stranger.pid, process.of(stranger.pid).start - 1, process.boot())
        line.queue.write("run", "a", supervisor=wrong, child=wrong)
        line.go()
        assert (line.job().status, line.job().attempt, count(line, "done")) == ("ok", 2, 1)
        assert stranger.poll() is None
    finally:
        stranger.kill()


def test_a_supervisor_that_wakes_late_finds_itself_given_up(line):
    line.add(script=TRIAL)
    job = line.queue.write("start", "a", device="CPU")
    assert line.go().jobs["a"].status == "ok"
    late = scheduler.spawn(line.run, job)
    assert late.wait(timeout=30) == 0
    assert count(line, "begun") == 1 and Queue(line.run).refresh().jobs["a"].attempt == 2
