"""A run whose trials are small shell scripts; $1 is the trial's folder, ok.json in the run's folder an ok result."""

import time

import msgspec
import pytest

from elmanctl.queue import log, scheduler, states, supervisor
from elmanctl.records import Budget, Result, Training, Trial

OK = Result(status="ok", steps=7, tokens=70, seconds=1.0)
DONE = "cp $1/../ok.json $1/result.json"


class Line:
    """A queue of scripts."""

    def __init__(self, run):
        self.run = run
        self.queue = log.Queue(run)
        run.mkdir(parents=True, exist_ok=True)
        (run / "ok.json").write_bytes(msgspec.json.encode(OK))

    def add(self, label="a", script=DONE, training=None, ranks=1, device="cpu", **facts):
        """Queue a script."""
        trial = Trial(
            label=label,
            model="M",
            dim=8,
            depth=1,
            params=1,
            budget=Budget(steps=7),
            training=training or Training(),
            ranks=ranks,
            device=device,
        )
        spec = states.Spec(
            trial=trial, folder=label, **{"command": ("sh", "-c", script, "sh"), "backoff_seconds": 0.05} | facts
        )
        return self.queue.write("enqueue", label, spec=spec)

    def scheduler(self, **facts):
        return scheduler.Scheduler(log.Queue(self.run), **facts)

    def go(self, *labels):
        """Run until these jobs, or all, have ended; return the queue."""
        now = self.scheduler()
        now.queue.refresh()
        now.run(set(labels or now.queue.jobs))
        return self.queue.refresh()

    def job(self, label="a"):
        return self.queue.refresh().jobs[label]

    def events(self):
        """Return the steps in the log, each checked to be one that the table has."""
        jobs, found = {}, []
        for text in self.queue.path.read_bytes().split(b"\n"):
            event = log.read_line(text) if text else None
            if event is not None:
                assert states.refusal(jobs.get(event.job), event) == ""
                states.apply(jobs, event)
                found.append((event.job, event.step))
        return found

    @staticmethod
    def until(condition, seconds=20.0):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.fixture
def line(tmp_path, monkeypatch):
    """Return a Line with a quick scheduler; supervisors are processes and keep their own pace."""
    monkeypatch.setenv("ELMANCTL_LOCKS", str(tmp_path / "locks"))
    monkeypatch.setattr(scheduler, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(scheduler, "SAMPLE_SECONDS", 0.01)
    monkeypatch.setattr(scheduler, "ADOPT_SECONDS", 0.5)
    monkeypatch.setattr(supervisor, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(supervisor, "ASK_SECONDS", 0.02)
    return Line(tmp_path / "runs" / "r")
