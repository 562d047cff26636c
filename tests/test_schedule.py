"""The worker loop, with small shell scripts in the place of trials."""

import os
import signal
import subprocess
import sys
import time

import msgspec
import psutil
import pytest

from elmanctl import gpus, schedule
from elmanctl.files import read_json
from elmanctl.records import Budget, Result, Trial
from elmanctl.records import Training as Block

OK = Result(status="ok", steps=7, tokens=70, seconds=1.0)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(schedule, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(schedule, "BUSY_SECONDS", 0.05)
    seconds = {signal.SIGINT: 2.0, signal.SIGTERM: 0.5, signal.SIGKILL: 2.0}
    monkeypatch.setattr(schedule, "GRACE_SECONDS", seconds)


@pytest.fixture
def jobs(tmp_path):
    def make(count):
        made = []
        for number in range(count):
            folder = tmp_path / f"row{number}"
            folder.mkdir()
            trial = Trial(
                label=f"row{number}", model="M", dim=8, depth=1, params=1, budget=Budget(steps=7), training=Block()
            )
            made.append(schedule.Job(trial, folder))
        return made

    return make


def script(text):
    """Return a launcher that runs a shell script in the job's folder, in a process group of its own."""

    def start(job, device):
        (job.folder / "ok.json").write_bytes(msgspec.json.encode(OK))
        environment = {**os.environ, "DEVICE": device.label}
        return subprocess.Popen(["sh", "-c", text], cwd=job.folder, env=environment, start_new_session=True)

    return start


DONE = "sleep 0.05; echo $DEVICE > device; cp ok.json result.json"


def test_each_device_runs_one_trial_at_a_time_until_all_are_done(jobs):
    most = {}

    def observe(now):
        labels = [running.device.label for running in now.running]
        assert len(labels) == len(set(labels))
        most["running"] = max(most.get("running", 0), len(labels))

    todo = jobs(5)
    loop = schedule.Schedule(todo, [schedule.Device("A"), schedule.Device("B")], observe, script(DONE))
    loop.run()
    assert most["running"] == 2
    assert sorted(job.trial.label for job, _ in loop.finished) == [f"row{n}" for n in range(5)]
    assert {result.status for _, result in loop.finished} == {"ok"}
    assert {(job.folder / "device").read_text().strip() for job in todo} == {"A", "B"}


def test_a_child_that_dies_without_a_result_is_failed_with_the_cause_and_the_others_run(jobs):
    todo = jobs(2)
    first = "case $PWD in *row0) kill -9 $$;; *) cp ok.json result.json;; esac"
    loop = schedule.Schedule(todo, [schedule.Device("A")], start=script(first))
    loop.run()
    results = {job.trial.label: result for job, result in loop.finished}
    assert results["row0"].status == "failed" and "SIGKILL" in results["row0"].message
    assert "log.txt" in results["row0"].message
    assert read_json(todo[0].folder / "result.json", Result) == results["row0"]
    assert results["row1"].status == "ok"


def test_a_failed_child_counts_the_steps_that_it_recorded(jobs):
    (job,) = jobs(1)
    line = '{"step":1,"loss":5.5,"lr":0.1,"grad_norm":1.0,"seconds":0.5,"tokens":10}'
    loop = schedule.Schedule([job], [schedule.Device("A")], start=script(f"echo '{line}' > steps.jsonl; exit 3"))
    loop.run()
    ((_, result),) = loop.finished
    assert (result.status, result.steps, result.tokens, result.seconds) == ("failed", 1, 10, 0.5)
    assert "exit code 3" in result.message


def test_a_busy_device_is_held_with_its_reason_and_used_once_it_is_free(jobs):
    answers = iter(["in use by another process", "in use by another process"])
    seen = []
    device = schedule.Device("GPU 0", busy=lambda: next(answers, None))
    loop = schedule.Schedule(jobs(1), [device], lambda now: seen.append(dict(now.held)), script(DONE))
    loop.run()
    assert {"GPU 0": "in use by another process"} in seen
    assert loop.held == {} and [result.status for _, result in loop.finished] == ["ok"]


def test_an_interrupt_ends_the_whole_process_group_and_keeps_what_was_finished(jobs):
    first, second, third = jobs(3)
    # A background child of a shell ignores SIGINT: only ending the group reaches it.
    text = "case $PWD in *row0) cp ok.json result.json;; *) sleep 60 & echo $! > pid.new; mv pid.new pid; wait;; esac"

    def observe(now):
        if (second.folder / "pid").exists():
            raise KeyboardInterrupt

    loop = schedule.Schedule([first, second, third], [schedule.Device("A")], observe, script(text))
    with pytest.raises(KeyboardInterrupt):
        loop.run()
    pid = int((second.folder / "pid").read_text())
    deadline = time.monotonic() + 5
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "a grandchild outlived the interrupt"
        time.sleep(0.02)
    assert {job.trial.label: result.status for job, result in loop.finished} == {"row0": "ok", "row1": "interrupted"}
    assert read_json(second.folder / "result.json", Result).status == "interrupted"
    assert not (third.folder / "result.json").exists() and [job.trial.label for job in loop.waiting] == ["row2"]


def test_what_a_child_wrote_on_its_way_out_is_kept(jobs):
    (job,) = jobs(1)
    text = "trap 'sed s/ok/interrupted/ ok.json > result.json; exit 1' INT; touch up; while :; do sleep 0.05; done"

    def observe(now):
        if (job.folder / "up").exists() and now.running:
            raise KeyboardInterrupt

    loop = schedule.Schedule([job], [schedule.Device("A")], observe, script(text))
    with pytest.raises(KeyboardInterrupt):
        loop.run()
    assert loop.finished[0][1] == msgspec.structs.replace(OK, status="interrupted")


def test_sigterm_is_taken_as_an_interrupt_and_the_handler_is_restored(jobs):
    before = signal.getsignal(signal.SIGTERM)
    loop = schedule.Schedule(
        jobs(1), [schedule.Device("A")], lambda now: os.kill(os.getpid(), signal.SIGTERM), script("sleep 60")
    )
    with pytest.raises(KeyboardInterrupt):
        loop.run()
    assert signal.getsignal(signal.SIGTERM) is before
    assert loop.finished[0][1].status == "interrupted"


def test_launch_confines_the_child_and_sends_its_output_to_the_log(jobs, tmp_path, monkeypatch):
    fake = tmp_path / "python"
    fake.write_text('#!/bin/sh\necho "$CUDA_VISIBLE_DEVICES $CUDA_DEVICE_ORDER $*"; echo trouble >&2; sleep 0.2\n')
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    (job,) = jobs(1)
    seen = gpus.Gpu(
        index=3, uuid="GPU-abc", name="H200", memory_total=1, memory_used=0, utilisation=0, capability=(9, 0)
    )
    process = schedule.launch(job, schedule.gpu(seen))
    assert os.getpgid(process.pid) == process.pid != os.getpgid(0)
    process.wait()
    log = (job.folder / "log.txt").read_text()
    assert log == f"GPU-abc PCI_BUS_ID -m elmanctl.trial {job.folder}\ntrouble\n"
    assert read_json(job.folder / "trial.json", Trial) == job.trial


def test_a_gpu_that_somebody_took_meanwhile_is_busy_and_one_that_vanished_too(monkeypatch):
    seen = gpus.Gpu(
        index=3, uuid="GPU-abc", name="H200", memory_total=1, memory_used=0, utilisation=0, capability=(9, 0)
    )
    device = schedule.gpu(seen)
    monkeypatch.setattr(gpus, "gpus", lambda: [seen])
    assert device.busy() is None
    monkeypatch.setattr(gpus, "gpus", lambda: [msgspec.structs.replace(seen, utilisation=50)])
    assert "50 % utilised" in device.busy()
    monkeypatch.setattr(gpus, "gpus", list)
    assert "no longer visible" in device.busy()


def test_the_cpu_hides_gpus_and_runs_one_thread_unless_the_user_says_otherwise(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert schedule.cpu().environment == {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert schedule.cpu().environment["OMP_NUM_THREADS"] == "2"
