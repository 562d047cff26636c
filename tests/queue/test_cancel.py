"""What `runs cancel` makes of a job in each state, and what the records then say of it."""

import subprocess

import msgspec
import pytest

from elmanctl.files import read_json, write_json
from elmanctl.queue import control, process, settle
from elmanctl.queue.enqueue import resume
from elmanctl.records import Result

STOPPED = Result(status="interrupted", steps=7, tokens=70, seconds=1.0, message="Interrupted after step 7.")


@pytest.fixture
def stopped(line):
    """Return a Line whose row `a` was stopped with its bench, so that --resume would go on with it."""
    line.add()
    line.queue.write("start", "a", device="CPU")
    line.queue.write("run", "a")
    line.queue.write("ask", "a", ask="stop")
    write_json(line.run / "a" / "result.json", STOPPED)
    verdict = settle.verdict(line.job(), line.run / "a", -2)
    line.queue.write(verdict.step, "a", **verdict.facts)
    assert line.job().stopped and "bench --resume" in message(line)
    return line


def message(line):
    return read_json(line.run / "a" / "result.json", Result).message


def cancel(line, why=""):
    return control.cancel(line.queue, control.chosen(line.queue.refresh(), []), why)["a"]


def test_what_was_stopped_is_cancelled_and_not_resumed(stopped):
    assert cancel(stopped, "ü") == "cancelled"
    job, result = stopped.job(), read_json(stopped.run / "a" / "result.json", Result)
    assert (job.state, job.status, job.asked, job.why, job.stopped) == (
        "ended",
        "interrupted",
        "cancel",
        "cancelled: ü",
        False,
    )
    assert result == msgspec.structs.replace(STOPPED, message="cancelled: ü Interrupted after step 7.")
    assert resume(str(stopped.run)).labels == set()
    assert cancel(stopped, "again") == "has ended already (interrupted)" and message(stopped) == result.message


def test_whoever_cancels_it_may_be_killed_before_the_result_says_so(stopped):
    stopped.queue.write("end", "a", status="interrupted", ask="cancel", why="cancelled: ü")
    assert "bench --resume" in message(stopped)
    assert cancel(stopped) == "has ended already (interrupted)"
    assert message(stopped) == "cancelled: ü Interrupted after step 7."


def test_what_was_resumed_meanwhile_is_cancelled_where_it_is(stopped):
    jobs = control.chosen(stopped.queue.refresh(), [])
    assert resume(str(stopped.run)).labels == {"a"}
    assert control.cancel(stopped.queue, jobs, "") == {"a": "cancelled"}
    assert stopped.events()[-2:] == [("a", "enqueue"), ("a", "end")] and not stopped.job().stopped


def test_a_reason_outlives_a_supervisor_that_was_lost(line):
    line.add()
    gone = subprocess.Popen(["true"])
    who = process.of(gone.pid) or process.Identity(gone.pid, 1, process.boot())
    gone.wait()
    line.queue.write("start", "a", device="CPU")
    line.queue.write("run", "a", supervisor=who, child=who)
    assert "as soon as `elmanctl bench --resume` takes the run up" in cancel(line, "ü")
    line.go()
    assert (line.job().status, line.job().why, message(line)) == ("interrupted", "cancelled: ü", "cancelled: ü")


def test_ctrl_c_does_not_take_back_what_was_cancelled(line):
    line.add()
    line.queue.write("start", "a", device="CPU")
    line.queue.write("run", "a")
    line.queue.write("ask", "a", ask="cancel", why="no good")
    line.queue.write("ask", "a", ask="stop")
    verdict = settle.verdict(line.job(), line.run / "a", -2)
    line.queue.write(verdict.step, "a", **verdict.facts)
    assert not line.job().stopped and message(line) == "cancelled: no good"
