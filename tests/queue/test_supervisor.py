"""One attempt under its supervisor: limits, stack dumps, GPUs that somebody else wants, and what is put aside."""

import os
import signal
import subprocess
import sys
import time

import msgspec
import pytest

from elmanctl.files import read_json
from elmanctl.gpus import verdict as verdicts
from elmanctl.gpus import witness
from elmanctl.gpus.choice import Pool
from elmanctl.queue import process, supervisor, watchdog
from elmanctl.queue.supervisor import Supervisor
from elmanctl.records import Result, Trial

ONE = Pool(("GPU-0",))
HANGS = "import faulthandler, signal, time\nfaulthandler.register(signal.SIGUSR1)\ndef stuck():\n    time.sleep(60)\nstuck()\n"


@pytest.fixture
def supervise(line, monkeypatch):
    """Return a function that runs the present attempt of job `a` in this process and returns the job."""
    monkeypatch.setattr(supervisor, "DUMP_SECONDS", 0.5)
    monkeypatch.setattr(supervisor, "RETURN_SECONDS", 0.3)
    monkeypatch.setattr(witness, "SAMPLE_SECONDS", 0.02)
    monkeypatch.setattr(witness, "CONFLICT_SECONDS", 0.2)

    def run(device="CPU"):
        job = line.queue.write("start", "a", device=device)
        assert Supervisor(line.run, "a", job.attempt).run() == 0
        return line.job()

    return run


def result(line):
    return read_json(line.run / "a" / "result.json", Result)


def test_a_trial_that_takes_no_step_is_ended_with_its_stack_in_the_log(line, supervise, monkeypatch):
    monkeypatch.setattr(watchdog, "SETUP_SECONDS", 1.0)
    line.add(command=(sys.executable, "-c", HANGS))
    job = supervise()
    assert (job.status, job.state) == ("timeout", "ended") and "since it started (limit 1 s)" in job.why
    assert "in stuck" in (line.run / "a/log.txt").read_text()
    assert result(line).status == "timeout" and not process.alive(job.child)


def test_a_trial_longer_than_its_limit_is_ended(line, supervise):
    line.add(script="sleep 60", wall_seconds=0.3)
    job = supervise()
    assert job.status == "timeout" and "longer than its limit" in result(line).message


def test_a_hang_is_measured_by_the_trials_own_pace(tmp_path):
    clock = [0.0]
    path = tmp_path / "steps.jsonl"
    dog = watchdog.Watchdog(path, 0.0, lambda: clock[0])
    assert dog.allowed() == watchdog.SETUP_SECONDS
    text = '{{"step":{n},"loss":1.0,"lr":0.1,"grad_norm":1.0,"seconds":{s},"tokens":1}}\n'
    path.write_text("".join(text.format(n=n, s=30.0 * n) for n in range(1, 6)))
    assert dog.limit() == "" and dog.allowed() == 1500.0  # 50 steps of 30 s
    clock[0] = 1499.0
    assert dog.limit() == ""
    clock[0] = 1501.0
    assert "No step for 1501 s since step 5 (limit 1500 s)" in dog.limit()
    with path.open("a") as file:
        file.write(text.format(n=6, s=180.0))
    assert dog.limit() == ""
    quick = tmp_path / "quick.jsonl"
    quick.write_text("".join(text.format(n=n, s=0.01 * n) for n in range(1, 6)))
    dog = watchdog.Watchdog(quick, 0.0, lambda: clock[0])
    dog.limit()
    assert dog.allowed() == watchdog.HANG_SECONDS


def test_who_comes_to_the_gpu_at_the_same_moment_gets_it_and_no_attempt_is_lost(line, supervise, box):
    line.add(script="sleep 60", pool=ONE)
    box.change(0, processes=[[os.getpid(), 2**30]], memory_used=2**30)
    job = supervise("GPU-0")
    assert (job.state, job.failures, job.attempt) == ("queued", 0, 1)
    assert f"given back: at the same moment came pid {os.getpid()}" in job.why
    assert process.members(job.child, supervisor.mark(line.run, "a", 1)) == set()


def test_a_later_neighbour_contaminates_the_run_and_nothing_is_dropped(line, supervise, box, monkeypatch):
    line.add(script="until [ -e $1/end ]; do sleep 0.05; done; cp $1/../ok.json $1/result.json", pool=ONE)
    real, looks = witness.Witness.look, []

    def look(self):
        looks.append(1)
        if len(looks) == 20:
            box.change(0, processes=[[os.getpid(), 2**30]], throttle=0x40)
        if len(looks) == 40:
            (line.run / "a" / "end").touch()
        return real(self)

    monkeypatch.setattr(witness.Witness, "look", look)
    job = supervise("GPU-0")
    assert job.status == "contaminated"
    found = result(line)
    assert found.status == "contaminated" and found.steps == 7
    assert f"pid {os.getpid()}" in found.message and "throttled by heat (hardware)" in found.message
    verdict = read_json(line.run / "a" / verdicts.VERDICT, verdicts.Verdict)
    assert verdict.verdict == "contaminated" and len(verdict.evidence) == 2 and verdict.samples > 10


def test_an_undisturbed_run_is_clean_with_its_clocks(line, supervise, box):
    line.add(script="sleep 0.5; cp $1/../ok.json $1/result.json", pool=ONE)
    assert supervise("GPU-0").status == "ok"
    verdict = read_json(line.run / "a" / verdicts.VERDICT, verdicts.Verdict)
    assert (verdict.verdict, verdict.clock, verdict.power, verdict.temperature_max) == ("clean", 1980.0, 500.0, 55)


def test_a_gpu_that_vanishes_meanwhile_is_evidence(line, supervise, box, monkeypatch):
    line.add(script="sleep 0.6; cp $1/../ok.json $1/result.json", pool=ONE)
    real = witness.Witness.look
    monkeypatch.setattr(witness.Witness, "look", lambda self: (box.change(0, lost=True), real(self))[1])
    assert supervise("GPU-0").status == "contaminated" and "GPU is lost" in result(line).message


def test_memory_that_does_not_come_back_is_said(line, supervise, box):
    line.add(script="cp $1/../ok.json $1/result.json", pool=ONE)
    box.change(0, memory_used=3 * 2**30)
    assert "GPU 0 still holds 3 GiB" in supervise("GPU-0").why


def test_a_second_supervisor_of_the_same_attempt_leaves(line, supervise):
    line.add()
    line.queue.write("start", "a", device="CPU")
    held = supervisor.hold(line.run / "a")
    try:
        assert Supervisor(line.run, "a", 1).run() == 0
        assert line.job().state == "starting"
    finally:
        os.close(held)


def test_what_the_attempt_before_left_is_put_aside_and_its_steps_stay(line, supervise):
    line.add(
        script="echo first; test -e $1/second && cp $1/../ok.json $1/result.json || { touch $1/second; kill -9 $$; }"
    )
    (line.run / "a").mkdir()
    (line.run / "a" / "steps.jsonl").write_text("")
    assert supervise().state == "queued"
    assert supervise().status == "ok"
    assert (line.run / "a/attempts/1.log.txt").read_text() == "first\n" and (line.run / "a/steps.jsonl").exists()


def test_the_micro_batches_of_the_attempt_are_in_the_trial_that_runs(line, supervise):
    spec = msgspec.structs.replace(line.add("b").spec, folder="a", command=("false",))
    line.queue.write("enqueue", "a", spec=spec, micro_batches=4)
    supervise()
    assert read_json(line.run / "a/trial.json", Trial).micro_batches == 4


def test_a_trial_of_the_tool_writes_its_stacks_on_request(tmp_path):
    os.mkfifo(tmp_path / "trial.json")  # the trial waits for what it shall do
    call = [sys.executable, "-m", "elmanctl.trial", str(tmp_path)]
    trial = subprocess.Popen(call, stderr=subprocess.PIPE, text=True)
    with (tmp_path / "trial.json").open("w"):  # returns when the trial reads
        time.sleep(0.1)
        trial.send_signal(signal.SIGUSR1)
        assert "most recent call first" in trial.stderr.readline()
        trial.kill()
        trial.communicate()
