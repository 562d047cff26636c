"""Kill a suite at random and resume it, again and again, and compare its records with those of an undisturbed run.

    python bench/kill_and_resume.py smoke --kills 10 --seed 0

Each time the scheduler, a supervisor, a trial or all of them at once (as if the machine had gone down) are killed by SIGKILL; then
`elmanctl bench --resume` goes on. Every field but times and machine readings has to be the same in the end. The budget of the suite
has to be in steps or tokens.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from elmanctl.queue import process
from elmanctl.queue.log import Queue, read_line
from elmanctl.queue.states import ACTIVE, ENDED, apply, refusal

CALL = [sys.executable, "-c", "from elmanctl.start import main; main()", "bench"]
MEASURED = {"seconds", "tokens_per_second", "peak_memory_bytes", "warnings"}
VICTIMS = ("scheduler", "supervisor", "trial", "everything")


def records(run: Path) -> dict[str, dict]:
    """Return what each row of a run found, without what is measured."""
    found = {}
    for row in json.loads((run / "run.json").read_text())["rows"]:
        folder = run / row["folder"]
        lines = [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]
        result = json.loads((folder / "result.json").read_text())
        found[row["label"]] = {
            "steps": [{k: v for k, v in line.items() if k not in MEASURED} for line in lines],
            "heldout": (folder / "heldout.jsonl").read_text(),
            "result": {k: v for k, v in result.items() if k not in MEASURED},
        }
    return found


def victims(kind: str, bench: subprocess.Popen, queue: Queue) -> set[int]:
    """Return the pids to kill; empty where there is nothing of the kind at the moment."""
    jobs = [job for job in queue.refresh().jobs.values() if job.state in ACTIVE]
    found = {"scheduler": {bench.pid} if bench.poll() is None else set(), "supervisor": set(), "trial": set()}
    for job in jobs:
        for name, who in (("supervisor", job.supervisor), ("trial", job.child)):
            if process.alive(who):
                found[name].add(who.pid)
    return set().union(*found.values()) if kind == "everything" else found[kind]


def disturbed(run: Path, first: list[str], kills: int, longest: float, chance: random.Random) -> list[str]:
    """Run a suite with some kills in between, each at a random moment after the last; return who was killed, in order."""
    bench = subprocess.Popen(CALL + first)
    done: list[str] = []
    while len(done) < kills:
        time.sleep(chance.uniform(0.2, longest))
        queue = Queue(run)
        finished = queue.refresh().jobs and all(job.state == ENDED for job in queue.jobs.values())
        kind = chance.choice(VICTIMS)
        pids = victims(kind, bench, queue)
        if finished or not queue.jobs:
            if finished and bench.poll() is not None:
                break
            continue
        if pids:
            process.send(pids, signal.SIGKILL)
            done.append(kind)
            print(f"kill {len(done)}: {kind}", file=sys.stderr, flush=True)
        if bench.poll() is not None or kind in ("scheduler", "everything"):
            bench.wait()
            bench = subprocess.Popen([*CALL, "--resume", run.name])
    if bench.wait() not in (0, -signal.SIGKILL):
        sys.exit(f"bench ended with {bench.returncode}")
    subprocess.run([*CALL, "--resume", run.name], check=True)
    return done


def check_log(run: Path) -> None:
    """Check that every step in the log is one that the table of states has, and that each job ended once after its last start."""
    jobs, ends = {}, {}
    for text in (run / "events.jsonl").read_bytes().split(b"\n"):
        event = read_line(text) if text else None
        if event is not None:
            assert refusal(jobs.get(event.job), event) == "", (event, jobs.get(event.job))
            apply(jobs, event)
            ends[event.job] = ends.get(event.job, 0) + (event.step == "end")
    assert all(job.state == ENDED and job.status == "ok" for job in jobs.values()), jobs
    assert set(ends.values()) == {1}, ends


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("suite")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest", type=float, default=12.0, help="most seconds between two kills")
    parser.add_argument("--checkpoint-seconds", type=float, default=1.0)
    parser.add_argument("--steps", type=int, help="budget in place of the suite's")
    given = parser.parse_args()
    more = ["--no-preflight"] + (["--steps", str(given.steps)] if given.steps else [])
    stamp = f"{os.getpid()}"
    calm, rough = Path("runs") / f"undisturbed-{stamp}", Path("runs") / f"disturbed-{stamp}"
    subprocess.run([*CALL, given.suite, "--run", calm.name, *more], check=True)
    minutes = str(given.checkpoint_seconds / 60)
    first = [given.suite, "--run", rough.name, *more, "--checkpoint-minutes", minutes, "--retry-seconds", "0.5"]
    killed = disturbed(rough, first, given.kills, given.longest, random.Random(given.seed))
    check_log(rough)
    expected, found = records(calm), records(rough)
    different = [label for label in expected if expected[label] != found.get(label)]
    attempts = {label: job.attempt for label, job in Queue(rough).refresh().jobs.items()}
    steps = sum(len(found["steps"]) for found in expected.values())
    print(
        json.dumps(
            {"rows": len(expected), "steps": steps, "killed": killed, "attempts": attempts, "different": different}
        )
    )
    sys.exit(bool(different))


if __name__ == "__main__":
    main()
