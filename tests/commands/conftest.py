"""A project with suites of its own for `elmanctl bench`, and trials that end at once."""

import subprocess
from types import SimpleNamespace

import msgspec
import pytest

from elmanctl.queue import preflight, process, scheduler, settle
from elmanctl.queue.log import Queue
from elmanctl.records import Result
from elmanctl.verify import receipt

MINE = """
description: two small cells
params: 60K
depth: 2
align: 16
tolerance: 30%
device: cpu
budget: {steps: 25}
training: {batch: 2, chunk: 8, eval_batches: 1, data: data/text}
rows: [{model: gru}, {model: E42}]
"""


@pytest.fixture
def mine(project):
    """A project with a suite of two rows for the CPU, whose text is `suite`, and a data file long enough for it."""
    project.suite = MINE
    project.write("suites/mine.yaml", MINE)
    project.write("suites/big.yaml", MINE.replace("device: cpu\n", ""))
    project.write("data/text", "some text to learn from, again and again\n" * 200)
    return project


@pytest.fixture
def trials(monkeypatch):
    """Replace supervisors: each trial ends at once with the result that `ends` holds for its label, ok by default.

    `seen` lists label and device of the launches.
    """
    fake = SimpleNamespace(ends={}, seen=[])

    def spawn(run, job, lock=None):
        fake.seen.append((job.label, job.device))
        folder = run / job.spec.folder
        folder.mkdir(exist_ok=True)
        (folder / "trial.json").write_bytes(msgspec.json.encode(job.spec.trial))
        result = Result(
            status="ok", steps=25, tokens=400, seconds=1.0, tokens_per_second=400.0, peak_memory_bytes=2**20
        )
        if (end := fake.ends.get(job.label, {})) is not None:
            (folder / "result.json").write_bytes(msgspec.json.encode(msgspec.structs.replace(result, **end)))
        queue = Queue(run).refresh()
        job = queue.write("run", job.label, supervisor=process.me(), child=process.me())
        verdict = settle.verdict(job, folder, code=3)
        queue.write(verdict.step, job.label, **verdict.facts)
        return subprocess.Popen(["true"])

    monkeypatch.setattr(preflight, "steps", lambda *_: [])
    monkeypatch.setattr(scheduler, "spawn", spawn)
    monkeypatch.setattr(scheduler, "POLL_SECONDS", 0.01)
    return fake


@pytest.fixture
def vouched(monkeypatch):
    """Let every kernel have a receipt for every target."""
    monkeypatch.setattr(receipt, "find", lambda spec, target: SimpleNamespace(source_hash="0123456789abcdef"))
