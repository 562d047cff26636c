import time
from pathlib import Path

import pytest

from elmanctl.errors import UserError
from elmanctl.records import Heldout, Step, read_steps
from elmanctl.runlog import Lines, checkpoint_name, parse_checkpoint_name, read_heldout


def test_each_line_is_on_disk_when_append_returns(tmp_path):
    path = tmp_path / "run" / "heldout.jsonl"
    lines = Lines(path)
    for step in (1, 2):
        lines.append(Heldout(step=step, loss=0.5))
        assert [h.step for h in read_heldout(path)] == list(range(1, step + 1))
    lines.close()
    Lines(path).append(Heldout(step=3, loss=0.25))
    assert len(read_heldout(path)) == 3
    path.write_bytes(path.read_bytes() + b'{"step":4,')
    assert len(read_heldout(path)) == 3


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
def test_a_full_disk_is_an_error_with_advice(tmp_path):
    (tmp_path / "steps.jsonl").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"steps.jsonl could not be written: No space left on device. Free some space"):
        Lines(tmp_path / "steps.jsonl").append(Heldout(step=1, loss=0.5))


def test_a_folder_that_cannot_be_made_is_an_error_with_advice(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="could not be written"):
        Lines(tmp_path / "file" / "steps.jsonl")
    (tmp_path / "empty").write_text("")
    assert read_steps(tmp_path / "empty") == []


@pytest.mark.parametrize(("step", "loss"), [(0, 5.545), (500, 1.23456), (123_456_789, 12.0)])
def test_a_checkpoint_name_reads_back(step, loss):
    assert parse_checkpoint_name(checkpoint_name(step, loss)) == (step, round(loss, 4))
    assert parse_checkpoint_name(f"{checkpoint_name(step, loss)}.tmp") is None


def test_the_form_of_a_checkpoint_name_is_fixed():
    assert checkpoint_name(500, 1.23449) == "step_000500_loss_1.2345"


def test_writing_a_step_takes_less_than_a_thousandth_of_a_20_millisecond_step(tmp_path, record_property):
    lines = Lines(tmp_path / "steps.jsonl")
    step = Step(step=1, loss=1.2345678, lr=3e-4, grad_norm=1.234, seconds=12.34567, tokens=16384)
    times = []
    for _ in range(20):
        began = time.process_time()
        for _ in range(200):
            lines.append(step)
        times.append((time.process_time() - began) / 200)
    record_property("seconds", min(times))
    assert min(times) < 20e-6, times
