"""The Slurm engine where it needs no Slurm: what a job takes up, what had ended before, what is read, and what is said without one."""

import subprocess
import sys

import msgspec
import pytest
from slurm_cluster import LOW

from elmanctl.errors import UserError
from elmanctl.files import read_json, write_json
from elmanctl.queue import scheduler, slurm, slurm_job
from elmanctl.records import Result

OK = Result(status="ok", steps=7, tokens=70, seconds=1.0)


def given_to(line, number, state="running"):
    """Queue a job that is an attempt in the Slurm job `number`."""
    line.add(slurm=LOW)
    line.queue.write("start", "a", device=f"slurm:{number}")
    if state == "running":
        line.queue.write("run", "a")
    return line.run / "a"


@pytest.mark.parametrize("state", ["starting", "running"])
def test_a_slurm_job_that_nobody_knows_of_does_nothing(line, state):
    """As after bench was killed between submitting and writing so, or when the queue went on with another job."""
    given_to(line, 7, state)
    before = line.events()
    assert slurm_job.take_up(line.run, "a", "8") is None and slurm_job.take_up(line.run, "b", "7") is None
    assert line.events() == before


def test_a_slurm_job_that_was_started_anew_goes_on_without_a_lost_attempt(line):
    given_to(line, 7)
    job = slurm_job.take_up(line.run, "a", "7")
    assert (job.state, job.attempt, job.failures, job.slurm) == ("starting", 2, 0, "7")
    assert [step for _, step in line.events()][-2:] == ["requeue", "start"]
    assert slurm_job.take_up(line.run, "a", "7").attempt == 2  # taken off its node once more, before it began


@pytest.mark.parametrize(
    ("status", "asked", "ended"), [("ok", "", "ok"), ("interrupted", "cancel", "interrupted"), ("failed", "", "failed")]
)
def test_what_had_ended_before_its_node_was_taken_away_is_settled_and_not_begun_again(line, status, asked, ended):
    folder = given_to(line, 7)
    if asked:
        line.queue.write("ask", "a", ask=asked)
    write_json(folder / "result.json", msgspec.structs.replace(OK, status=status))
    assert slurm_job.take_up(line.run, "a", "7") is None
    assert (line.job().state, line.job().status) == ("ended", ended)


def test_a_damaged_trial_of_slurm_is_not_tried_for_ever(line):
    folder = given_to(line, 7)
    for number in range(2, 5):
        slurm_job.abandoned(line.queue, line.job(), "NODE_FAIL")
        assert line.job().state == "queued" and "Slurm job 7 ended (NODE_FAIL)" in line.job().why
        line.queue.write("start", "a", device="slurm:7")
        assert line.job().attempt == number
    slurm_job.abandoned(line.queue, line.job(), "")
    assert (line.job().state, line.job().status) == ("ended", "failed")
    assert "Given up after 4" in read_json(folder / "result.json", Result).message


@pytest.mark.parametrize(("text", "expected"), [
    ("1:00:00", 60), ("infinite", None), ("1-00:00:00", 1440), ("30:00", 30), ("0:30", 1), ("2-01:30:00", 2970),
])  # fmt: skip
def test_time_limits_are_read(text, expected):
    assert slurm.minutes(text) == expected


def test_without_slurm_the_engine_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="there is no sinfo here"):
        slurm.wanted(None, [])


def test_the_scheduler_module_has_no_need_of_submitit():
    code = f"import sys, {scheduler.__name__}; sys.exit('submitit' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
