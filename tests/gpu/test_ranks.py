"""A trial of two GPUs, with a CUDA graph and without, against one GPU that takes the batch in the same two halves."""

import subprocess
import sys

import msgspec
import pytest
import torch

from elmanctl import train
from elmanctl.files import read_json, write_json
from elmanctl.records import Result, read_steps

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="two GPUs are needed"),
]


@pytest.mark.parametrize("graph", [True, False])
def test_two_gpus_give_the_losses_of_one(trainee, tmp_path, graph):
    """(a + b) / 2 is a / 2 + b / 2 in binary; what is left are kernels that other pointers may make choose another order of sums."""
    trial = msgspec.structs.replace(trainee.trial(steps=20, batch=8, graph=graph), device="cuda")
    write_json(tmp_path / "two/trial.json", msgspec.structs.replace(trial, ranks=2))
    call = [sys.executable, "-m", "elmanctl.trial", str(tmp_path / "two")]
    ran = subprocess.run(call, capture_output=True, text=True, timeout=280)
    assert ran.returncode == 0, ran.stderr[-3000:]
    one = train.run(msgspec.structs.replace(trial, micro_batches=2), tmp_path / "one")
    found = read_json(tmp_path / "two/result.json", Result)
    a, b = (read_steps(tmp_path / name / "steps.jsonl") for name in ("two", "one"))
    assert found.graph is graph and (found.status, found.steps) == ("ok", 20) and found.batch_hash == one.batch_hash
    assert [s.loss for s in a] == pytest.approx([s.loss for s in b], rel=1e-4)
    assert found.heldout_loss == pytest.approx(one.heldout_loss, rel=1e-4)
