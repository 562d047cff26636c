"""The Slurm engine against a real Slurm on loopback, with small scripts in the place of trials, and one real suite."""

import getpass
import json
import sys
import time
from pathlib import Path

import pytest
import slurm_cluster
from slurm_cluster import LOW

from elmanctl.errors import UserError
from elmanctl.files import read_json
from elmanctl.gpus import witness
from elmanctl.queue import control, slurm
from elmanctl.queue.states import Slurm
from elmanctl.records import Result

# Makes a checkpoint of step 5, stops in good order when asked, and is done the second time.
TWICE = """
[ -d $1/checkpoints ] && { cp $1/../ok.json $1/result.json; exit 0; }
mkdir -p $1/checkpoints/step_000005_loss_1.0000
trap 'sed s/ok/interrupted/ $1/../ok.json > $1/result.json; exit 1' INT TERM
touch $1/up; while :; do sleep 0.05; done
"""


@pytest.fixture(scope="module")
def cluster():
    if missing := slurm_cluster.absent():
        pytest.skip(missing)
    made = slurm_cluster.LoopbackCluster()
    yield made
    made.stop()


@pytest.fixture
def queued(cluster, line, monkeypatch):
    """Return a Line whose scheduler looks at Slurm often."""
    for name, value in (cluster.environment | {"PATH": slurm_cluster.PATH}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(slurm, "LOOK_SECONDS", 0.2)
    yield line
    cluster.call("scancel", "--quiet", "--user", getpass.getuser(), check=False)


def until(line, now, condition, seconds=40.0):
    deadline = time.monotonic() + seconds
    while not condition():
        now.tick()
        assert time.monotonic() < deadline, (now.waiting, line.events())
        time.sleep(0.05)


def running(line, label="a"):
    return lambda: (line.run / label / "up").exists() and line.job(label).state == "running"


def test_jobs_run_with_the_gpus_that_slurm_gives_them_and_are_watched_on_these(queued, box):
    box.only({}, {}, {}, {})
    script = "echo $CUDA_VISIBLE_DEVICES > $1/seen; sleep 0.5; cp $1/../ok.json $1/result.json"
    for label in "ab":
        queued.add(label, script, ranks=2, device="cuda", slurm=LOW)
    queued.go()
    jobs = [queued.job(label) for label in "ab"]
    assert [(job.status, job.attempt) for job in jobs] == [("ok", 1), ("ok", 1)]
    assert jobs[0].slurm.isdigit() and jobs[0].slurm != jobs[1].slurm
    for label in "ab":
        seen = (queued.run / label / "seen").read_text().strip()
        assert seen in ("0,1", "2,3")
        assert {s.gpu for s in witness.read(queued.run / label)} == {f"GPU-{n}" for n in seen.split(",")}


def test_shortly_before_the_time_limit_a_trial_is_stopped_and_goes_on_in_the_same_job(queued, cluster):
    queued.add(script=TWICE, slurm=LOW)
    now = queued.scheduler()
    until(queued, now, running(queued))
    number = queued.job().slurm
    cluster.call("scancel", "--signal=USR2", number)  # what Slurm sends as --signal of the job asks for
    until(queued, now, lambda: queued.job().state == "ended")
    job = queued.job()
    assert (job.status, job.attempt, job.failures, job.slurm) == ("ok", 2, 0, number)
    assert ("a", "requeue") in queued.events() and (queued.run / "a/attempts/1.result.json").exists()


def test_a_preempted_trial_goes_on_when_its_turn_comes_again_also_without_bench(queued, cluster):
    queued.add(script=TWICE, slurm=LOW)
    now = queued.scheduler()
    until(queued, now, running(queued))
    number = queued.job().slurm
    del now  # bench is gone; Slurm and the job's own supervisor do the rest
    cluster.call("srun", "--partition=high", "--exclusive", "sleep", "0.1")
    queued.until(lambda: queued.job().state == "ended", 40)
    job = queued.job()
    assert (job.status, job.attempt, job.failures, job.slurm) == ("ok", 2, 0, number)
    assert "preempted" in json.dumps([step["why"] for step in control.history(queued.queue, "a")])


def test_a_waiting_and_a_running_job_are_cancelled(queued, cluster):
    for label in "ab":
        queued.add(label, TWICE, slurm=Slurm(partition="low", options={"cpus-per-task": "8"}))
    now = queued.scheduler()
    until(queued, now, lambda: running(queued)() and "waits in Slurm as job" in now.waiting.get("b", ""))
    done = control.cancel(queued.queue, control.chosen(queued.queue, []), "enough")
    assert done == {"a": "is being cancelled", "b": "cancelled"}
    until(queued, now, lambda: queued.job("a").state == "ended")
    assert [queued.job(label).status for label in "ab"] == ["interrupted"] * 2
    assert read_json(queued.run / "a/result.json", Result).message == "cancelled: enough"
    left = cluster.call("squeue", "-h", "-o", "%i")
    assert queued.job("b").slurm not in left.split()


def test_a_job_that_scancel_ended_is_interrupted_and_one_that_was_killed_is_tried_again(queued, cluster):
    queued.add("a", TWICE, slurm=LOW)
    queued.add(
        "b", "[ -e $1/again ] && { cp $1/../ok.json $1/result.json; exit 0; }; touch $1/again; kill -9 $$", slurm=LOW
    )
    now = queued.scheduler()
    until(queued, now, running(queued))
    cluster.call("scancel", queued.job("a").slurm)
    until(queued, now, lambda: all(queued.job(label).state == "ended" for label in "ab"))
    assert queued.job("a").status == "interrupted"
    assert (queued.job("b").status, queued.job("b").attempt) == ("ok", 2)


def test_ctrl_c_takes_back_what_waits_and_stops_what_runs(queued):
    for label in "ab":
        queued.add(label, TWICE, slurm=Slurm(partition="low", options={"cpus-per-task": "8"}))

    def observe(now):
        if running(queued)() and "waits in Slurm" in now.waiting.get("b", "") and not queued.job().asked:
            raise KeyboardInterrupt

    now = queued.scheduler(observe=observe)
    now.queue.refresh()
    with pytest.raises(KeyboardInterrupt):
        now.run({"a", "b"})
    assert (queued.job("a").state, queued.job("a").status) == ("ended", "interrupted")
    assert (queued.job("b").state, queued.job("b").failures) == ("queued", 0)


SUITE = """
description: a toy
depth: 2
matched: false
device: cpu
gpus_per_trial: 2
budget: {steps: 30}
training: {batch: 4, chunk: 16, lr: 3e-3, eval_batches: 2}
rows: [{model: Toy, dim: 16}]
"""


def test_a_suite_of_two_processes_a_row_is_submitted_reported_and_listed_as_one_of_this_machine(queued, trainee):
    trainee.project.write("suites/toy.yaml", SUITE)
    ran = trainee.project.start("bench", "toy", "--engine", "slurm", "--partition", "low", "--run", "r", "--json")
    assert ran.code == 0, ran.err
    (row,) = json.loads(ran.out)["rows"]
    assert row["status"] == "ok" and row["steps"] == 30
    (listed,) = json.loads(trainee.run("runs", "ls", "--json").out)
    assert (listed["run"], listed["status"], listed["steps"]) == ("r/Toy", "ok", 30)
    shown = json.loads(trainee.run("runs", "show", "r", "Toy", "--json").out)
    assert shown["snapshot"] and shown["trial"]["ranks"] == 2 and shown["steps"][1]["device"].startswith("slurm:")
    assert trainee.run("runs", "logs", "r").code == 0


def test_what_a_command_line_cannot_ask_of_slurm_ends_with_code_2(queued, trainee):
    trainee.project.write("suites/toy.yaml", SUITE)
    for more, says in {
        ("--engine", "sulrm"): "there are local and slurm",
        ("--partition", "low"): "belong to --engine slurm",
        ("--engine", "slurm", "--gpus", "0"): "leave --gpus out",
        ("--engine", "slurm", "--partition", "hihg"): "no partition hihg",
        ("--engine", "slurm", "--slurm", "time=90"): "give whole minutes, 60 at most in that partition",
        ("--gpus-per-trial", "3"): "4 rows cannot be shared equally by 3 GPUs",
    }.items():
        ran = trainee.run("bench", "toy", *more)
        assert ran.code == 2 and says in ran.err, (more, ran.err)
    assert not Path("runs").exists()


def test_a_slurm_that_goes_away_is_said_and_waited_for(queued, monkeypatch, tmp_path):
    queued.add(slurm=LOW)
    now = queued.scheduler()
    now.queue.refresh()
    away = tmp_path / "sinfo"
    away.write_text("#!/bin/sh\necho 'sinfo: error: Unable to contact slurm controller' >&2\nexit 1\n")
    away.chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", f"{tmp_path}:{slurm_cluster.PATH}")
        now.tick()
    assert "Slurm refuses: sinfo: error: Unable to contact slurm controller. `sinfo` shows" in now.waiting["a"]
    assert queued.job().state == "queued"
    now._slurm._again = 0.0
    now.run({"a"})
    assert queued.job().status == "ok"


def test_what_cannot_be_asked_of_slurm_is_refused_with_what_to_do(queued, monkeypatch):
    assert slurm.wanted("low", ["account=lab"]) == Slurm(partition="low", options={"account": "lab"})
    assert slurm.partitions() == {"low": 60, "high": 60}
    slurm.check(Slurm(partition="low", options={"time": "30"}), 4)
    for asked, gpus in (
        (Slurm(), 5),
        (Slurm(options={"nodelist": "elsewhere"}), 0),
    ):
        with pytest.raises(UserError, match="Slurm refuses: .*sinfo"):
            slurm.check(asked, gpus)
    with pytest.raises(UserError, match="no partition hihg. Close: high.*Partitions: low, high"):
        slurm.wanted("hihg", [])
    for option in ("time", "output=x", "time=soon"):
        with pytest.raises(UserError, match=f"--slurm {option}"):
            slurm.wanted(None, [option])
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match="pip install 'elmanctl.slurm.'"):
        slurm.wanted(None, [])
