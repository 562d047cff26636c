"""Run a suite on two GPUs while a process of somebody else comes to the second one and goes again, and show what the witness saw.

    python bench/two_gpus.py e88_vs_baselines --gpus 0-1 --minutes 2 --out docs/results/two_gpus

Some seconds after a row has begun to train on the second GPU, a CUDA process that has nothing to do with the bench multiplies matrices
there, and ends by itself. Demanded are: the rows on that GPU meanwhile are `contaminated` and keep their numbers, those on the first
GPU are not, and the stranger was left alone. Where NVML lists no processes (some containers), the row is found by the memory that the
stranger gave back. The folder gets report.html, report.md and witness.json. Exit code 0 if all of it holds, 1 if not.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from elmanctl import gpus, plan
from elmanctl.files import read_json
from elmanctl.gpus import choice, verdict, witness
from elmanctl.queue.log import Queue
from elmanctl.queue.process import MARK
from elmanctl.queue.states import RUNNING
from elmanctl.records import Result, read_steps
from elmanctl.runlog import RESULT, STEPS

ELMANCTL = [sys.executable, "-c", "from elmanctl.start import main; main()"]
STRANGER = """
import sys, time
import torch
x = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
print(torch.cuda.get_device_name(), flush=True)
end = time.monotonic() + float(sys.argv[1])
while time.monotonic() < end:
    for _ in range(20):
        x = (x @ x).clamp(-1, 1)
    torch.cuda.synchronize()
"""
STEPS_BEFORE = 50  # of the row that will be disturbed: it is past its preparation then
POLL_SECONDS = 0.5


def training_on(run: Path, uuid: str) -> str:
    """Return the row that trains on a GPU now and has made its first steps, an empty text for none."""
    for job in Queue(run).refresh().jobs.values():
        steps = run / job.spec.folder / STEPS
        if job.state == RUNNING and uuid in job.devices and steps.exists() and len(read_steps(steps)) >= STEPS_BEFORE:
            return job.label
    return ""


def disturb(bench: subprocess.Popen, run: Path, uuid: str, after: float, seconds: float) -> dict:
    """Wait for a row on a GPU, start the stranger there, and return its story; `began` is 0.0 where it never came to that."""
    story = {"gpu": uuid, "row": "", "pid": 0, "began": 0.0, "ended": 0.0, "code": None}
    while bench.poll() is None and not (run.exists() and (row := training_on(run, uuid))):
        time.sleep(POLL_SECONDS)
    if bench.poll() is not None:
        return story
    time.sleep(after)
    environment = {name: value for name, value in os.environ.items() if name != MARK}
    environment |= {"CUDA_VISIBLE_DEVICES": uuid, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    stranger = subprocess.Popen([sys.executable, "-c", STRANGER, str(seconds)], env=environment, start_new_session=True)
    story |= {"row": row, "pid": stranger.pid, "began": time.time()}
    print(f"stranger: pid {stranger.pid} on {uuid} beside {row}", file=sys.stderr, flush=True)
    story["code"] = stranger.wait()
    story["ended"] = time.time()
    print(f"stranger: ended by itself with code {story['code']}", file=sys.stderr, flush=True)
    return story


def rows_of(run: Path) -> dict[str, dict]:
    """Return what each row of a run ended as, where it ran, and what its witness says."""
    found = {}
    for job in Queue(run).refresh().jobs.values():
        folder = run / job.spec.folder
        samples = witness.read(folder)
        result = read_json(folder / RESULT, Result)
        said = read_json(folder / verdict.VERDICT, verdict.Verdict) if (folder / verdict.VERDICT).exists() else None
        found[job.label] = {
            "devices": job.devices,
            "status": result.status,
            "steps": result.steps,
            "last100_loss": result.last100_loss,
            "message": result.message,
            "verdict": said.verdict if said else "unwatched",
            "evidence": said.evidence if said else (),
            "notes": said.notes if said else (),
            "samples": len(samples),
            "began": samples[0].time if samples else 0.0,
            "ended": samples[-1].time if samples else 0.0,
        }
    return found


def wrong(rows: dict[str, dict], story: dict) -> list[str]:
    """Return what is not as it has to be."""
    found = [] if story["code"] == 0 else [f"the stranger ended with code {story['code']}, not by itself"]
    margin = 2 * witness.SAMPLE_SECONDS
    for label, row in rows.items():
        beside = row["began"] < story["ended"] - margin and row["ended"] > story["began"] + margin
        disturbed = story["began"] > 0 and story["gpu"] in row["devices"] and beside
        if disturbed and (row["status"] != "contaminated" or not row["steps"]):
            found.append(f"{label} shared its GPU and is {row['status']} with {row['steps']} steps")
        if not disturbed and any("processes of others" in text or "given back" in text for text in row["evidence"]):
            found.append(f"{label} is blamed for a stranger it did not meet: {row['evidence']}")
    if not story["began"]:
        found.append("no row trained on the second GPU, so no stranger came")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("suite", nargs="?", default="e88_vs_baselines")
    parser.add_argument("--gpus", default="0-1")
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--after", type=float, default=20.0, help="seconds of training before the stranger comes")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long the stranger works")
    parser.add_argument("--only", action="append", default=[], help="a row to run; may be repeated")
    parser.add_argument("--unverified", action="store_true", help="run kernels without a receipt too")
    parser.add_argument("--out", type=Path, default=Path("two_gpus"))
    given = parser.parse_args()
    pool = choice.parse(given.gpus, gpus.gpus())
    if len(pool.uuids) < 2:
        sys.exit(f"--gpus {given.gpus}: two GPUs are needed, one that is left alone and one that is disturbed.")
    run = plan.RUNS / f"two-gpus-{os.getpid()}"
    more = [f"--only={row}" for row in given.only] + (["--unverified"] if given.unverified else [])
    call = ["bench", given.suite, "--gpus", given.gpus, "--minutes", f"{given.minutes:g}", "--run", run.name, *more]
    bench = subprocess.Popen(ELMANCTL + call)
    story = disturb(bench, run, pool.uuids[1], given.after, given.seconds)
    code = bench.wait()
    if not run.exists():
        sys.exit(f"bench ended with {code} before anything was queued.")
    rows = rows_of(run)
    faults = wrong(rows, story)
    given.out.mkdir(parents=True, exist_ok=True)
    subprocess.run([*ELMANCTL, "report", run.name, "--html", str(given.out / "report.html")], check=True)
    (given.out / "report.md").write_text((run / "report.md").read_text())
    record = {
        "command": " ".join(["elmanctl", *call]),
        "exit_code": code,
        "stranger": story,
        "rows": rows,
        "wrong": faults,
    }
    (given.out / "witness.json").write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps({"wrong": faults, "verdicts": {label: row["verdict"] for label, row in rows.items()}}))
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
