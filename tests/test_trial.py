"""A trial as its supervisor runs it: in micro-batches, with checkpoints by time, and gone on with after it was ended."""

from unittest import mock

import msgspec
import pytest

from elmanctl import session, train
from elmanctl.checkpoint import found_in
from elmanctl.errors import UserError
from elmanctl.files import read_json, write_json
from elmanctl.records import Result, read_steps
from elmanctl.trial import main


def test_micro_batches_take_the_same_step_and_are_refused_where_they_do_not_divide_the_batch(trainee, tmp_path):
    """The mean of two means of 64 losses, against the mean of 128: fp32 sums of so many terms differ by at most 128 roundings."""
    whole = trainee.trial(steps=1)
    parts = msgspec.structs.replace(whole, micro_batches=2)
    train.run(whole, tmp_path / "whole")
    train.run(parts, tmp_path / "parts")
    (a,), (b,) = (read_steps(tmp_path / name / "steps.jsonl") for name in ("whole", "parts"))
    bound = 128 * 2.0**-24
    assert abs(a.loss - b.loss) <= bound * a.loss and abs(a.grad_norm - b.grad_norm) <= 4 * bound * a.grad_norm
    assert a.tokens == b.tokens
    with pytest.raises(UserError, match="4 rows cannot be taken in 3 equal micro-batches"):
        train.run(msgspec.structs.replace(whole, micro_batches=3), tmp_path / "wrong")


def test_checkpoints_by_time_let_a_trial_go_on_to_the_same_end_and_go_when_it_is_ok(trainee, tmp_path):
    trial = trainee.trial(steps=12)
    expected = train.run(trial, tmp_path / "whole")
    folder = tmp_path / "parts"
    write_json(folder / "trial.json", trial)
    calls = []
    real = session.Session.receive

    def stop(self, wait):
        real(self, wait)
        calls.append(1)
        if len(calls) == 7:
            raise KeyboardInterrupt

    with mock.patch.object(session.Session, "receive", stop):
        assert main([str(folder), "--go-on", "--checkpoint-seconds", "1e-9"]) == 1
    newest = found_in(folder)[-1]
    damaged = newest / "model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")  # the one before it has to do
    assert main([str(folder), "--go-on", "--checkpoint-seconds", "300"]) == 0
    found = read_json(folder / "result.json", Result)
    assert (found.batch_hash, found.heldout_loss) == (expected.batch_hash, expected.heldout_loss)
    assert [s.loss for s in read_steps(folder / "steps.jsonl")] == [
        s.loss for s in read_steps(tmp_path / "whole/steps.jsonl")
    ]
    assert not (folder / "checkpoints").exists()
