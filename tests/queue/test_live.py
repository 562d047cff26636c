"""What is shown of a run while it goes on."""

import io

import msgspec
import pytest

from elmanctl.queue import live, process
from elmanctl.queue.follow import Follower
from elmanctl.queue.live import Watch
from elmanctl.queue.states import Slurm
from elmanctl.records import Budget, Step


def steps(count, seconds=0.5, tokens=100):
    return [
        Step(step=n, loss=2.0, lr=0.1, grad_norm=1.0, seconds=seconds * n, tokens=tokens) for n in range(1, count + 1)
    ]


def lines(count):
    return [msgspec.json.encode(step) + b"\n" for step in steps(count)]


def test_a_follower_reads_only_whole_new_lines(tmp_path):
    path = tmp_path / "steps.jsonl"
    follower = Follower(path)
    follower.update()
    assert follower.steps == [] and follower.speed is None and follower.remaining(Budget(steps=10)) is None
    text = lines(3)
    foreign = b'\xff\n{"x":' + b"[" * 100_000 + b"\n"
    path.write_bytes(text[0] + foreign + text[1] + text[2][:20])
    follower.update()
    assert [step.step for step in follower.steps] == [1, 2]
    with path.open("ab") as file:
        file.write(text[2][20:])
    follower.update()
    assert follower.steps == steps(3)
    assert follower.speed == pytest.approx(200.0)


def test_a_follower_begins_anew_where_a_trial_goes_on_from_a_checkpoint(tmp_path):
    path = tmp_path / "steps.jsonl"
    path.write_bytes(b"".join(lines(5)))
    follower = Follower(path)
    follower.update()
    (tmp_path / "new").write_bytes(b"".join(lines(3)))
    (tmp_path / "new").replace(path)
    with path.open("ab") as file:
        file.write(b"".join(lines(7)[3:]))
    follower.update()
    assert [step.step for step in follower.steps] == [1, 2, 3, 4, 5, 6, 7]


def test_the_remaining_time_follows_the_budget(tmp_path):
    follower = Follower(tmp_path / "none")
    follower.steps = steps(10)
    assert follower.remaining(Budget(steps=30)) == pytest.approx(10.0)
    assert follower.remaining(Budget(tokens=1500)) == pytest.approx(2.5)
    assert follower.remaining(Budget(minutes=1)) == pytest.approx(55.0)
    assert follower.remaining(Budget(steps=5)) == 0


def shown(watch, now):
    from rich.console import Console

    console = Console(width=160, record=True, file=io.StringIO())
    console.print(watch.view(now))
    return [" ".join(text.split()) for text in console.export_text().splitlines()]


def test_the_view_shows_jobs_with_reasons_gpus_and_the_time_left(line, box):
    from elmanctl.gpus.choice import Pool
    from elmanctl.gpus.free import Sampler

    for label in ("finished", "running", "waiting", "held"):
        line.add(label, pool=Pool(("GPU-0", "GPU-1")))
    queue = line.queue
    for label in ("finished", "running"):
        queue.write("start", label, device="GPU-0")
        queue.write("run", label, supervisor=process.me(), child=process.me())
        (line.run / label).mkdir()
        (line.run / label / "steps.jsonl").write_bytes(b"".join(lines(5)))
        if label == "finished":
            queue.write("end", label, status="ok")
    queue.write("hold", "held", why="for the night")
    now = line.scheduler(sampler=Sampler().settle())
    now.queue.refresh()
    now.recover = lambda: None
    now.tick()
    text = shown(Watch(), now)
    assert "finished ok 5 2.0000 200" in text
    assert "running GPU 0, 0:00 5 2.0000 200 0:01" in text
    assert "waiting waits for GPU 0: GPU 1 is in use by another process (pid 4000001; 41 GiB)" in text
    assert "held held: for the night" in text
    assert "0 Stand-in 512 MiB 0 % running" in text
    assert "1 Stand-in 41 GiB 99 % process: in use by another process (pid 4000001; 41 GiB)" in text
    assert any(row.startswith("1 ended, 1 running, 1 queued, 1 held; about 0:0") for row in text)


def test_what_an_active_job_waits_for_is_shown_too(line, capsys):
    line.add(slurm=Slurm())
    line.queue.write("start", "a", device="slurm:7")
    now = line.scheduler()
    now.queue.refresh()
    now.waiting = {"a": "waits in Slurm as job 7: Resources"}
    watch = Watch()
    assert any("slurm:7, 0:00: waits in Slurm as job 7: Resources" in text for text in shown(watch, now))
    watch.observe(now)
    watch.observe(now)
    assert capsys.readouterr().err == "a: waits in Slurm as job 7: Resources\n"


def test_a_trial_that_was_cut_short_says_nothing_of_how_long_the_others_take(line):
    line.add("a")
    line.add("b")
    line.queue.write("start", "a", device="CPU")
    line.queue.write("run", "a")
    line.queue.write("end", "a", status="interrupted")
    (line.run / "a").mkdir()
    (line.run / "a" / "steps.jsonl").write_bytes(b"".join(lines(5)))
    now = line.scheduler()
    now.queue.refresh()
    assert Watch().remaining(now) is None
    now.queue.jobs["a"].status = "ok"
    assert Watch().remaining(now) == pytest.approx(2.5)


def test_elsewhere_each_change_is_one_line(line, capsys):
    line.add("a")
    line.add("b", "exit 3")
    now = line.scheduler(observe=Watch().observe)
    now.queue.refresh()
    now.run({"a", "b"})
    said = capsys.readouterr().err.splitlines()
    assert said == ["a: started on CPU", "a: ok after 0 steps", "b: started on CPU", "b: failed after 0 steps"]


def test_why_jobs_wait_is_one_line_once_and_not_while_gpus_change_hands(line, capsys, monkeypatch):
    for label in "abc":
        line.add(label)
    now, watch, clock = line.scheduler(), Watch(), [0.0]
    monkeypatch.setattr(live.time, "monotonic", lambda: clock[0])
    now.queue.refresh()

    def said(why, seconds=0.0):
        clock[0] += seconds
        now.waiting = dict.fromkeys("abc", why)
        watch.observe(now)
        return capsys.readouterr().err.splitlines()

    busy = "waits: GPU 0 is in use by another process (pid 7 ann; {} GiB)"
    assert said(busy.format(4)) == [f"a and 2 more: {busy.format(4)}"]
    assert said(busy.format(5), 60) == []
    line.queue.write("start", "a", device="CPU")
    line.queue.write("run", "a", supervisor=process.me(), child=process.me())
    line.queue.write("end", "a", status="ok")
    now.queue.refresh()
    other = "waits: GPU 0 is in use by another process (pid 8 bob; 4 GiB)"
    assert said(other) == ["a: started on CPU", "a: ok after 0 steps"]
    assert said(other, 1) == [] and said(other, 10) == [f"b and 1 more: {other}"]
    assert said("held: for the night") == ["b and 1 more: held: for the night"]


def test_a_trial_that_runs_between_two_looks_is_told_too(line, capsys):
    for label in ("quick", "over", "cancelled"):
        line.add(label)
    for label in ("over", "quick"):
        line.queue.write("start", label, device="CPU")
        line.queue.write("run", label, supervisor=process.me(), child=process.me())
        line.queue.write("end", label, status="ok")
        if label == "over":
            watch, now = Watch(), line.scheduler()
            now.queue.refresh()
            watch.observe(now)
    line.queue.write("end", "cancelled", status="interrupted", ask="cancel")
    now.queue.refresh()
    watch.observe(now)
    watch.observe(now)
    assert capsys.readouterr().err.splitlines() == [
        "over: ok after 0 steps",
        "quick: started on CPU",
        "quick: ok after 0 steps",
        "cancelled: interrupted after 0 steps",
    ]
