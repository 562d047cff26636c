"""The scheduler with real supervisors, and small scripts in the place of trials."""

import os
import signal
import subprocess
import sys
import time

import psutil

from elmanctl.files import read_json
from elmanctl.gpus import free, locks, witness
from elmanctl.gpus.choice import Pool
from elmanctl.queue import log, scheduler
from elmanctl.queue.log import Queue
from elmanctl.records import Result

ONE = Pool(("GPU-0",))
SLEEP = "sleep 60 & echo $! > $1/pid.new; mv $1/pid.new $1/pid; wait"


def gone(pid):
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_jobs_run_one_after_the_other_on_the_cpu_and_are_confined_to_it(line):
    line.add(
        "a",
        f"echo $CUDA_VISIBLE_DEVICES,$OMP_NUM_THREADS > $1/seen; {os.environ.get('X', '')}cp $1/../ok.json $1/result.json",
    )
    line.add("b")
    line.go()
    assert {job.status for job in line.queue.jobs.values()} == {"ok"}
    assert (line.run / "a/seen").read_text().strip() == f",{os.environ.get('OMP_NUM_THREADS', '1')}"
    assert line.events() == [
        ("a", "enqueue"), ("b", "enqueue"),
        ("a", "start"), ("a", "run"), ("a", "end"),
        ("b", "start"), ("b", "run"), ("b", "end"),
    ]  # fmt: skip


def test_a_child_that_ends_without_a_result_is_failed_and_the_others_run(line):
    line.add("a", "echo trouble; exit 3")
    line.add("b")
    line.go()
    assert (line.job("a").status, line.job("b").status) == ("failed", "ok")
    assert "exit code 3" in read_json(line.run / "a/result.json", Result).message
    assert (line.run / "a/log.txt").read_text() == "trouble\n"


def test_what_a_trial_leaves_running_is_ended_with_it(line):
    line.add(script=f"{SLEEP.replace('; wait', '')}; cp $1/../ok.json $1/result.json; exit 0")
    line.go()
    line.until(lambda: gone(int((line.run / "a/pid").read_text())))


def test_a_trial_gets_its_gpu_by_uuid_and_the_lock_is_held_while_it_runs(line, box):
    line.add(
        script="echo $CUDA_VISIBLE_DEVICES $CUDA_DEVICE_ORDER > $1/seen; sleep 0.5; cp $1/../ok.json $1/result.json",
        pool=ONE,
    )
    now = line.scheduler()
    now.tick()
    line.until(lambda: (line.run / "a/seen").exists())
    assert "r, a" in str(locks.holder("GPU-0")) and locks.acquire("GPU-0", "another") is None
    now.run({"a"})
    assert locks.holder("GPU-0") is None
    assert (line.run / "a/seen").read_text() == "GPU-0 PCI_BUS_ID\n" and line.job().status == "ok"


def test_a_trial_of_two_gpus_gets_both_by_uuid_locks_both_and_is_watched_on_both(line, box):
    seen = "echo $CUDA_VISIBLE_DEVICES > $1/seen; sleep 1.5; cp $1/../ok.json $1/result.json"
    line.add(script=seen, ranks=2, pool=Pool(("GPU-0", "GPU-2", "GPU-5")))
    line.add("b", pool=Pool(("GPU-2",)))
    now = line.scheduler()
    now.tick()
    line.until(lambda: (line.run / "a/seen").exists())
    assert (line.run / "a/seen").read_text() == "GPU-0,GPU-2\n"
    assert all("r, a" in str(locks.holder(uuid)) for uuid in ("GPU-0", "GPU-2")) and not locks.holder("GPU-5")
    assert "waits for GPU 2" in now.waiting["b"]
    now.run({"a", "b"})
    assert [line.job(label).status for label in "ab"] == ["ok", "ok"]
    assert not locks.holder("GPU-0") and not locks.holder("GPU-2")
    assert {sample.gpu for sample in witness.read(line.run / "a")} == {"GPU-0", "GPU-2"}


def test_a_trial_of_two_gpus_holds_neither_where_one_is_locked(line, box):
    held = locks.acquire("GPU-2", "run of somebody else")
    line.add(ranks=2, pool=Pool(("GPU-0", "GPU-2")))
    now = line.scheduler()
    now.queue.refresh()
    now.sampler = free.Sampler().settle()
    now.launch(line.job(), "GPU-0,GPU-2")
    assert "run of somebody else" in now.waiting["a"] and locks.holder("GPU-0") is None
    locks.release(held)
    now.run({"a"})
    assert line.job().status == "ok"


def test_the_lock_outlives_the_supervisor_with_the_trial(line, box):
    line.add(script="touch $1/up; sleep 1; cp $1/../ok.json $1/result.json", pool=ONE)
    now = line.scheduler()
    now.tick()
    line.until(lambda: line.job().state == "running" and (line.run / "a/up").exists())
    os.kill(line.job().supervisor.pid, signal.SIGKILL)
    line.until(lambda: now._children["a"].poll() is not None)
    assert locks.holder("GPU-0") is not None
    now.run({"a"})
    assert (line.job().status, line.job().attempt) == ("ok", 1)


def test_a_busy_gpu_is_waited_for_with_the_reason_and_used_once_it_is_free(line, box):
    box.change(0, processes=[[4_000_009, 2**30]], memory_used=2**31)
    line.add(pool=ONE)
    seen = []

    def observe(now):
        seen.append(now.waiting.get("a", ""))
        if len(seen) == 5:
            box.change(0, processes=[], memory_used=0)

    now = line.scheduler(observe=observe)
    now.queue.refresh()
    now.run({"a"})
    assert seen[0] == "waits: GPU 0 is in use by another process (pid 4000009; 2 GiB)"
    assert line.job().status == "ok" and line.job().attempt == 1


def test_a_gpu_taken_between_decision_and_launch_is_not_used(line, box, monkeypatch):
    line.add(pool=ONE)
    now = line.scheduler(sampler=free.Sampler().settle())
    monkeypatch.setattr(scheduler, "SAMPLE_SECONDS", 60.0)
    now.queue.refresh()
    now._next_sample = time.monotonic() + 60
    box.change(0, utilisation=90)
    now.tick()
    assert line.job().state == "queued" and "90 % utilised" in now.waiting["a"]


def test_a_locked_gpu_is_waited_for_with_its_holder(line, box):
    held = locks.acquire("GPU-0", "run of somebody else")
    line.add(pool=ONE)
    now = line.scheduler()
    now.queue.refresh()
    now.tick()
    assert "run of somebody else" in now.waiting["a"]
    locks.release(held)
    now.run({"a"})
    assert line.job().status == "ok"


def test_a_vanished_gpu_is_said_and_another_of_the_pool_is_used(line, box):
    box.only(*box.devices[:1])
    line.add("a", "sleep 0.3; cp $1/../ok.json $1/result.json", pool=Pool(("GPU-7", "GPU-0")))
    line.add("b", pool=Pool(("GPU-7",)))
    now = line.scheduler()
    now.queue.refresh()
    now.run({"a"})
    assert line.job("a").status == "ok"
    said, _, next_step = now.waiting["b"].partition(". ")
    assert said == "waits: GPU-7 is no longer visible to NVML" and "`elmanctl runs cancel RUN ROW`, then" in next_step


def test_two_benches_at_once_run_each_job_once(line):
    for label in "abc":
        line.add(label, "echo >> $1/begun; sleep 0.2; cp $1/../ok.json $1/result.json")
    code = (
        "import sys; from pathlib import Path; from elmanctl.queue import log, scheduler\n"
        "queue = log.Queue(Path(sys.argv[1])).refresh()\n"
        "scheduler.Scheduler(queue).run(set(queue.jobs))\n"
    )
    benches = [subprocess.Popen([sys.executable, "-c", code, str(line.run)]) for _ in range(2)]
    assert [bench.wait(timeout=60) for bench in benches] == [0, 0]
    assert {job.status for job in line.queue.refresh().jobs.values()} == {"ok"}
    assert [(line.run / label / "begun").read_text() for label in "abc"] == ["\n"] * 3
    assert len([step for _, step in line.events() if step == "start"]) == 3


def test_two_runs_that_want_one_gpu_take_turns(line, box):
    """Two benches of two runs at once, each a process of its own: the GPU has one trial at a time, and no job loses an attempt."""
    script = "exec 9>$1/../../alone; flock -n 9 || touch $1/../../shared; sleep 0.2; cp $1/../ok.json $1/result.json"
    other = type(line)(line.run.parent / "s")
    for run in (line, other):
        for label in "ab":
            run.add(label, script, pool=ONE)
    code = (
        "import sys; from pathlib import Path; from elmanctl.gpus import free; from elmanctl.queue import log, scheduler\n"
        "free.SAMPLE_SECONDS = 0.0; scheduler.POLL_SECONDS = scheduler.SAMPLE_SECONDS = 0.02\n"
        "queue = log.Queue(Path(sys.argv[1])).refresh()\n"
        "scheduler.Scheduler(queue).run(set(queue.jobs))\n"
    )
    benches = [subprocess.Popen([sys.executable, "-c", code, str(run.run)]) for run in (line, other)]
    assert [bench.wait(timeout=60) for bench in benches] == [0, 0]
    assert [(run.job(label).status, run.job(label).attempt) for run in (line, other) for label in "ab"] == [
        ("ok", 1)
    ] * 4
    assert not (line.run.parent / "shared").exists() and not locks.holder("GPU-0")


def test_a_second_bench_watches_and_says_who_schedules(line):
    held = locks.take(line.run / scheduler.LOCK, "run r")
    line.add()
    now = line.scheduler()
    now.tick()
    assert line.job().state == "queued" and "run r" in now.chief
    os.close(held)
    now.run({"a"})
    assert now.chief == "" and line.job().status == "ok"


def test_a_look_at_a_thousand_jobs_takes_under_50_milliseconds(line, box, monkeypatch, record_property):
    monkeypatch.setattr(log.os, "fsync", lambda file: None)
    spec = line.add("a", pool=Pool(tuple(f"GPU-{n}" for n in range(8)))).spec
    with line.queue.locked() as file:
        for number in range(999):
            line.queue.write_locked(file, "enqueue", f"job{number}", spec=spec)
    now = line.scheduler(sampler=free.Sampler().settle())
    now.queue.refresh()
    now.launch = lambda job, device: None
    now.tick()
    times = []
    for _ in range(5):
        began = time.process_time()
        now.tick()
        times.append(time.process_time() - began)
    record_property("seconds", min(times))
    assert len(now.waiting) == 995 and min(times) < 0.05, times
    assert len(Queue(line.run).refresh().jobs) == 1000
