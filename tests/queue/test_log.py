"""The log of a run: what is written is whole or not there, and what is damaged is skipped and counted."""

import os
import subprocess
import sys
import zlib

import msgspec
import pytest

from elmanctl.errors import UserError
from elmanctl.queue import log, states
from elmanctl.queue.log import Queue, Refused


def test_what_one_process_writes_another_reads(line):
    job = line.add()
    assert (job.state, job.attempt) == ("queued", 0)
    other = Queue(line.run).refresh()
    assert other.jobs["a"].spec == job.spec
    line.queue.write("start", "a", device="CPU")
    assert other.refresh().jobs["a"].state == "starting" and other.jobs["a"].attempt == 1


def test_two_writers_cannot_take_the_same_step(line):
    line.add()
    other = Queue(line.run).refresh()
    line.queue.write("start", "a", attempt=1)
    with pytest.raises(Refused, match="a is starting, and start is not a step from there"):
        other.write("start", "a", attempt=1)
    other.write("requeue", "a")
    line.queue.write("start", "a")
    with pytest.raises(Refused, match="at attempt 2, and run names attempt 1"):
        other.write("run", "a", attempt=1)


def test_many_processes_append_without_losing_a_line(line):
    code = (
        "import sys; from pathlib import Path; from elmanctl.queue.log import Queue\n"
        "from elmanctl.queue.states import Spec\n"
        "q = Queue(Path(sys.argv[1])).refresh()\n"
        "for n in range(50): q.write('enqueue', f'{sys.argv[2]}{n}', spec=q.jobs['a'].spec)\n"
    )
    line.add()
    writers = [subprocess.Popen([sys.executable, "-c", code, str(line.run), name]) for name in "xyz"]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0, 0]
    queue = Queue(line.run).refresh()
    assert len(queue.jobs) == 151 and queue.damaged == []


@pytest.mark.parametrize("cut", [2, 20, 60])
def test_a_line_cut_off_is_closed_by_the_next_writer_and_counted(line, cut):
    line.add("a")
    whole = line.queue.path.read_bytes()
    line.add("b")
    line.queue.path.write_bytes(line.queue.path.read_bytes()[:-cut])
    reader = Queue(line.run).refresh()
    assert set(reader.jobs) == {"a"} and reader.damaged == []  # it may still be being written
    reader.write("hold", "a")
    later = Queue(line.run).refresh()
    assert later.jobs["a"].state == "held" and later.damaged == [2]
    assert "1 damaged line skipped (2)" in later.complaint()
    assert line.queue.path.read_bytes().startswith(whole)


def test_a_step_that_lacks_only_its_end_counts_before_the_next_is_checked(line):
    line.add("a")
    line.queue.write("start", "a", device="CPU")
    line.queue.path.write_bytes(line.queue.path.read_bytes()[:-1])
    late = Queue(line.run).refresh()
    assert late.jobs["a"].state == "queued"
    with pytest.raises(Refused, match="a is starting"):
        late.write("start", "a")


def summed(body):
    """Return a line whose checksum is right, whatever is in it."""
    return body[:-1] + log.SUM + b'%08x"}' % zlib.crc32(body)


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"not json",
        b'{"v":1,"time":1,"job":"a","step":"hold"}',
        b'{"v":1,"time":1,"job":"a","step":"hold","sum":"00000000"}',
        b"\x00\xff\xfe",
        b'{"other": "tool"}',
        summed(b'{"v":1,"time":1,"job":"\xff","step":"hold"}'),
        summed(b'{"v":1,"time":1,"job":"a","step":"hold","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    ],
)
def test_foreign_and_damaged_lines_are_skipped_and_counted(line, damage):
    line.add("a")
    with line.queue.path.open("ab") as file:
        file.write(damage + b"\n")
    line.add("b")
    queue = Queue(line.run).refresh()
    assert set(queue.jobs) == {"a", "b"} and queue.jobs["a"].state == "queued"
    assert queue.damaged == ([2] if damage else [])


def test_a_bit_that_flipped_is_seen(line):
    line.add("a")
    line.queue.write("hold", "a", why="for the night")
    text = line.queue.path.read_bytes()
    line.queue.path.write_bytes(text.replace(b"for the night", b"for the light"))
    queue = Queue(line.run).refresh()
    assert queue.jobs["a"].state == "queued" and queue.damaged == [2]


def test_steps_after_a_lost_line_still_count(line):
    line.add("a")
    line.queue.write("start", "a", device="CPU")
    line.queue.write("run", "a")
    lines = line.queue.path.read_bytes().splitlines(keepends=True)
    line.queue.path.write_bytes(lines[0] + lines[2])
    assert Queue(line.run).refresh().jobs["a"].state == "running"
    line.queue.path.write_bytes(lines[1] + lines[2])
    assert Queue(line.run).refresh().jobs == {}


def test_a_log_of_a_newer_version_is_refused(line, monkeypatch):
    monkeypatch.setattr(states, "VERSION", 9)
    line.add("a")
    monkeypatch.setattr(states, "VERSION", 1)
    with pytest.raises(UserError, match="written by a newer elmanctl .version 9, this one knows 1"):
        Queue(line.run).refresh()


def test_a_full_disk_leaves_the_log_as_it_was(line, monkeypatch):
    line.add("a")
    before = line.queue.path.read_bytes()

    class Full:
        def __getattr__(self, name):
            return getattr(os, name)

        def write(self, file, text):
            os.write(file, text[:10])
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(log, "os", Full())
    with pytest.raises(UserError, match="No space left on device.*bench --resume r"):
        line.queue.write("hold", "a")
    monkeypatch.undo()
    assert line.queue.path.read_bytes() == before
    assert line.queue.write("hold", "a").state == "held"


def test_a_read_only_folder_can_be_read_and_not_written(line, monkeypatch):
    line.add("a")

    def refuse(path, flags, *mode):
        if flags & os.O_RDWR:
            raise OSError(30, "Read-only file system")
        return os.open(path, flags, *mode)

    class ReadOnly:
        def __getattr__(self, name):
            return refuse if name == "open" else getattr(os, name)

    monkeypatch.setattr(log, "os", ReadOnly())
    assert Queue(line.run).refresh().jobs["a"].state == "queued"
    with pytest.raises(UserError, match="Read-only file system"):
        Queue(line.run).write("hold", "a")


def test_every_step_leads_where_the_table_says_and_nowhere_else(line):
    states_ = {None, "queued", "held", "starting", "running", "ended"}
    assert {state for before, _ in states.STEPS.values() for state in before} == states_
    assert {after for _, after in states.STEPS.values()} == states_
    spec = line.add().spec
    for step, (before, after) in states.STEPS.items():
        for state in states_ - {None}:
            job = states.Job("a", spec, state=state, attempt=3, status="interrupted" if state == "ended" else "")
            attempt = 4 if step == "start" else 3
            event = states.Event(v=1, time=0, job="a", step=step, attempt=attempt, status="interrupted", ask="cancel")
            refused = states.refusal(job, event)
            assert bool(refused) == (state not in before)
            if not refused and step != "enqueue":
                jobs = {"a": job}
                states.apply(jobs, event)
                assert jobs["a"].state == (after or state)


@pytest.mark.parametrize(
    ("status", "asked", "ask", "may"),
    [
        ("interrupted", "stop", "cancel", True),
        ("interrupted", "stop", "", False),
        ("interrupted", "cancel", "cancel", False),
        ("ok", "", "cancel", False),
        ("failed", "stop", "cancel", False),
    ],
)
def test_what_has_ended_ends_again_only_where_what_was_stopped_is_cancelled(line, status, asked, ask, may):
    job = states.Job("a", line.add().spec, state="ended", status=status, asked=asked)
    event = states.Event(v=1, time=0, job="a", step="end", status="interrupted", ask=ask)
    assert bool(states.refusal(job, event)) != may


@pytest.mark.parametrize("facts", [{"wait": float("nan")}, {"wait": float("inf")}, {"why": "\udcff"}])
def test_what_could_not_be_read_back_is_not_written(line, facts):
    line.add("a")
    before = line.queue.path.read_bytes()
    with pytest.raises(UserError, match="hold of a could not be read back, so it was not written"):
        line.queue.write("hold", "a", **facts)
    spec = msgspec.structs.replace(line.job().spec, backoff_seconds=float("nan"))
    with pytest.raises(UserError, match="enqueue of b"):
        line.queue.write("enqueue", "b", spec=spec)
    assert line.queue.path.read_bytes() == before and line.queue.write("hold", "a", why="ü").why == "ü"


def test_one_step_of_several_jobs_is_one_write_of_all_or_none(line, monkeypatch):
    for label in "abc":
        line.add(label)
    line.queue.write("hold", "c")
    before = line.queue.path.read_bytes()
    with line.queue.locked() as file, pytest.raises(Refused, match="c is held"):
        line.queue.write_together(file, "hold", {"a": {}, "b": {}, "c": {}})
    assert line.queue.path.read_bytes() == before
    texts = []
    append = Queue._append
    monkeypatch.setattr(Queue, "_append", lambda self, file, text: (texts.append(text), append(self, file, text)))
    with line.queue.locked() as file:
        line.queue.write_together(file, "hold", {"a": {"why": "x"}, "b": {}})
        line.queue.write_together(file, "hold", {})
    assert [text.count(b"\n") for text in texts] == [2]
    assert {name: job.state for name, job in line.queue.jobs.items()} == dict.fromkeys("abc", "held")
