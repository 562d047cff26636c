"""A real suite, killed and resumed at random, ends with the records of an undisturbed run; bench/kill_and_resume.py does it at length."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent.parent.parent / "bench" / "kill_and_resume.py"
SUITE = """
description: a toy
depth: 2
matched: false
device: cpu
budget: {steps: 800}
training: {batch: 4, chunk: 16, lr: 3e-3, eval_batches: 2}
rows: [{model: Toy, dim: 16}]
"""


def test_the_records_of_a_run_that_was_killed_are_those_of_one_that_was_not(trainee):
    trainee.project.write("suites/toy.yaml", SUITE)
    call = [
        sys.executable,
        str(SCRIPT),
        "toy",
        "--kills",
        "2",
        "--seed",
        "3",
        "--longest",
        "4",
        "--checkpoint-seconds",
        "0.2",
    ]
    ran = subprocess.run(call, cwd=trainee.folder, capture_output=True, text=True, timeout=280)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert json.loads(ran.stdout.splitlines()[-1])["different"] == []
    assert "kill 1" in ran.stderr
