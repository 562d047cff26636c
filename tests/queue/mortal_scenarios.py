"""What is killed at each of its writes (mortal.py), how it goes on, and what must hold in the end."""

import os
from collections import Counter
from pathlib import Path

import mortal
import msgspec
from mortal_training import Trains

from elmanctl.files import read_json, write_json
from elmanctl.gpus import locks
from elmanctl.gpus.choice import Pool
from elmanctl.queue import control, enqueue, log, scheduler, states
from elmanctl.queue.log import Queue
from elmanctl.records import Budget, Result, Training, Trial

OK = Result(status="ok", steps=7, tokens=70, seconds=1.0)
# Notes when it begins and ends, and whether another one runs at the same time.
ALONE = "exec 9>$1/alone; flock -n 9 || touch $1/twice; echo >> $1/begun; sleep 0.05; echo >> $1/done; "
GOOD = ALONE + "cp $1/../ok.json $1/result.json"
BROKEN = ALONE + "exit 3"
KILLED = "test -e $1/killed || { touch $1/killed; kill -9 $$; }; " + GOOD
SOFT = (
    "trap 'sed s/ok/interrupted/ $1/../ok.json > $1/result.json; exit 1' INT; touch $1/up; while :; do sleep 0.01; done"
)


def trial(label: str) -> Trial:
    training = Training(batch=8)
    return Trial(label=label, model="M", dim=8, depth=1, params=1, budget=Budget(steps=7), training=training)


def queued(run: Path, pool: Pool | None = None, **scripts: str) -> Queue:
    """Put scripts in the place of trials into a run's queue."""
    (run / "ok.json").write_bytes(msgspec.json.encode(OK))
    queue = Queue(run)
    for label, script in scripts.items():
        call = ("sh", "-c", script, "sh")
        facts = {"pool": pool, "command": call, "backoff_seconds": 0.01, "wall_seconds": 30}
        spec = states.Spec(trial=trial(label), folder=label, **facts)
        queue.write("enqueue", label, spec=spec)
    return queue


def undisturbed(run: Path) -> None:
    """Schedule what is left to its end."""
    scheduler.spawn = mortal.supervised()
    queue = Queue(run).refresh()
    scheduler.Scheduler(queue).run(set(queue.jobs))


def legal(run: Path) -> list[str]:
    """Return what is wrong with a log: a step that the table does not have, or more than one damaged line."""
    jobs, found = {}, []
    for text in (run / log.EVENTS).read_bytes().split(b"\n"):
        event = log.read_line(text) if text else None
        if event is not None:
            found += [reason] if (reason := states.refusal(jobs.get(event.job), event)) else []
            states.apply(jobs, event)
    damaged = Queue(run).refresh().damaged
    return found + ([f"{len(damaged)} damaged lines"] if len(damaged) > 1 else [])


class Runs:
    """One script under a scheduler and supervisors.

    Args:
        dying: who dies: the `scheduler`, the first `supervisor`, or the second one, that `adopts` the trial of the first.
        expected: how the script ends; begins: how often it may begin. One that leaves no result begins twice where the supervisor
            dies that saw its exit code.
    """

    def __init__(self, script: str, dying: str, expected: str = "ok", begins: tuple[int, ...] = (1,)):
        self.script, self.dying, self.expected, self.begins = script, dying, expected, begins

    def prepare(self, run: Path) -> None:
        queue = queued(run, a=self.script)
        if self.dying == "late scheduler":  # after another one, and its supervisor, died when the start was written
            queue.write("start", "a", device="CPU")

    def mortal(self, run: Path, number: int, note: Path) -> None:
        queue = Queue(run).refresh()
        if "scheduler" in self.dying:
            scheduler.spawn = mortal.supervised()
            mortal.Fork(lambda: scheduler.Scheduler(queue).run({"a"}), number, note).wait()
        else:
            dying = (number,) if self.dying == "supervisor" else ("the gate is open", number)
            scheduler.spawn = mortal.supervised(*dying, note=note)
            scheduler.Scheduler(queue).run({"a"})

    finish = staticmethod(undisturbed)

    def wrong(self, run: Path) -> list[str]:
        queue, folder = Queue(run).refresh(), run / "a"
        job, found = queue.jobs["a"], legal(run)
        counts = {name: len((folder / name).read_text()) for name in ("begun", "done") if (folder / name).exists()}
        if (
            len(counts) < 2
            or len({*counts.values()}) > 1
            or counts["begun"] not in self.begins
            or (folder / "twice").exists()
        ):
            found.append(f"begun and done {counts}, at the same time twice: {(folder / 'twice').exists()}")
        told = read_json(folder / "result.json", Result).status
        if (job.state, job.status, told) != ("ended", self.expected, self.expected):
            found.append(f"{job.state} {job.status}, its result {told}")
        ends = Counter(event["step"] for event in control.history(queue, "a"))["end"]
        return found + ([f"{ends} ends"] if ends != 1 else [])


class Watched(Runs):
    """A trial on a GPU beside which its supervisor sees something from its start to its end.

    Args:
        seen: what the stand-in for NVML tells meanwhile; sample: a word of the samples that saw it; says: what the result then says, once.
    """

    def __init__(self, seen: dict, sample: str, expected: str, says: str):
        there, gone = (
            f"cp $1/../{name}.json $1/../new.json; mv $1/../new.json $1/../nvml.json; " for name in ("seen", "idle")
        )
        script = f"{there}until grep -q {sample} $1/witness.jsonl; do sleep 0.01; done; {gone}{GOOD}"
        super().__init__(script, "supervisor", expected)
        self.seen, self.says = seen, says

    def prepare(self, run: Path) -> None:
        for name, facts in (("nvml", {}), ("idle", {}), ("seen", self.seen)):
            (run / f"{name}.json").write_bytes(msgspec.json.encode([facts]))
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)  # an empty mask would keep the GPU from everybody
        os.environ |= {"ELMANCTL_NVML": str(run / "nvml.json"), "ELMANCTL_LOCKS": str(run / "locks")}
        queued(run, Pool(("GPU-0",)), a=self.script)

    def wrong(self, run: Path) -> list[str]:
        result = read_json(run / "a/result.json", Result)
        times = [text for text in (*result.warnings, result.message) if self.says in text]
        found = super().wrong(run) + ([] if len(times) == 1 else [f"said {len(times)} times: {result}"])
        return found + ([f"locked by {who}"] if (who := locks.holder("GPU-0")) else [])


class Stops(Runs):
    """A trial that is cancelled: who asks for it dies, and asks again."""

    def prepare(self, run: Path) -> None:
        queued(run, a=self.script, b=GOOD)

    def mortal(self, run: Path, number: int, note: Path) -> None:
        queue = Queue(run).refresh()
        scheduler.spawn = mortal.supervised()
        self.now = scheduler.Scheduler(queue)
        while not (run / "a/up").exists() or queue.jobs["a"].state != "running":
            self.now.tick()
        jobs = list(queue.jobs.values())
        mortal.Fork(lambda: bool(control.cancel(queue, jobs, "enough")) - 1, number, note).wait()

    def finish(self, run: Path) -> None:
        queue = Queue(run).refresh()
        control.cancel(queue, list(queue.jobs.values()), "enough")
        self.now.run({"a", "b"})

    def wrong(self, run: Path) -> list[str]:
        found = {
            name: (job.state, job.status, read_json(run / name / "result.json", Result).status)
            for name, job in Queue(run).refresh().jobs.items()
        }
        ended = ("ended", "interrupted", "interrupted")
        begun = (run / "b/begun").exists()
        return legal(run) + ([f"{found}, b begun: {begun}"] if found != {"a": ended, "b": ended} or begun else [])


class Enqueues:
    """Rows that are put into a queue, one of them anew: who does it dies, and does it again."""

    def prepare(self, run: Path) -> None:
        (run / "a").mkdir()
        write_json(run / "a/result.json", msgspec.structs.replace(OK, status="failed", message="the night before"))

    @staticmethod
    def enqueue(run: Path) -> None:
        from types import SimpleNamespace as Some

        rows = [Some(row=Some(label=x, folder=x, problem=""), trial=trial(x)) for x in "ab"]
        rows.append(Some(row=Some(label="c", folder="c", problem="c cannot be built here."), trial=None))
        enqueue.enqueue(Some(rows=rows, pool=None), run, False, enqueue.Limits())

    def mortal(self, run: Path, number: int, note: Path) -> None:
        mortal.Fork(lambda: self.enqueue(run), number, note).wait()

    def finish(self, run: Path) -> None:
        self.enqueue(run)

    def wrong(self, run: Path) -> list[str]:
        found = legal(run)
        jobs = {label: job.state for label, job in Queue(run).refresh().jobs.items()}
        found += [] if jobs == {"a": "queued", "b": "queued"} else [f"queued: {jobs}"]
        found += [] if (run / "previous/a-1/result.json").exists() else ["what was there before is gone"]
        return found + ([] if read_json(run / "c/result.json", Result).status == "failed" else ["c has not failed"])


SCENARIOS = {
    "scheduler": Runs(GOOD, "scheduler"),
    "late scheduler": Runs(GOOD, "late scheduler"),
    "supervisor": Runs(GOOD, "supervisor"),
    "supervisor of a broken trial": Runs(BROKEN, "supervisor", "failed", (1, 2)),
    "supervisor of a killed trial": Runs(KILLED, "supervisor"),
    "supervisor beside a stranger": Watched(
        {"memory_used": 2**31, "processes": [[1, 2**31]]}, "foreign", "contaminated", "processes of others on the GPU"
    ),
    "adopting supervisor": Runs(GOOD, "adopts"),
    "cancel": Stops(SOFT, ""),
    "enqueue": Enqueues(),
    "trial": Trains(),
}
