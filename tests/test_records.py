import math

import pytest

from elmanctl.errors import UserError
from elmanctl.records import Budget, Step, Training, last100_loss, mean_loss, read_steps, throughput


def step(number, loss=1.0, tokens=10, seconds=None):
    return Step(
        step=number, loss=loss, lr=1.0, grad_norm=1.0, seconds=number if seconds is None else seconds, tokens=tokens
    )


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({}, "given: none"),
        ({"steps": 1, "minutes": 2.0}, "given: steps=1 and minutes=2.0"),
        ({"steps": 0}, "steps=0 is not a positive number"),
        ({"minutes": -1.0}, "minutes=-1.0"),
        ({"minutes": math.nan}, "minutes=nan"),
    ],
)
def test_a_budget_is_exactly_one_positive_limit(given, text):
    with pytest.raises(UserError, match=text):
        Budget(**given).check()
    Budget(tokens=1).check()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("batch", 0),
        ("chunk", -1),
        ("lr", math.nan),
        ("lr", 0.0),
        ("betas", (0.9, 1.0)),
        ("weight_decay", -0.1),
        ("warmup_share", 2.0),
        ("clip", math.inf),
        ("seed", -1),
        ("schedule", "linear"),
        ("final_lr_share", -0.1),
        ("eval_batches", -1),
        ("checkpoint_every", -5),
        ("checkpoint_layers", -1),
        ("loss_chunks", 0),
    ],
)
def test_a_training_value_that_cannot_work_is_named(field, value):
    Training().check()
    with pytest.raises(UserError, match=f"training {field}="):
        Training(**{field: value}).check()


def test_last_100_is_the_token_weighted_mean_of_100_steps_and_absent_before():
    steps = [step(i, loss=50.0) for i in range(1, 51)] + [step(i, loss=i) for i in range(51, 151)]
    assert last100_loss(steps) == pytest.approx(100.5)
    assert last100_loss(steps[:99]) is None
    assert mean_loss([step(1, 1.0, tokens=30), step(2, 5.0, tokens=10)]) == 2.0
    assert math.isnan(mean_loss([]))


def test_throughput_counts_target_tokens_after_20_steps():
    slow_start = [step(i, seconds=100.0 * i) for i in range(1, 21)]
    then = [step(20 + i, seconds=2000 + i) for i in range(1, 11)]
    assert throughput(slow_start + then) == pytest.approx(10.0)
    assert throughput(slow_start) is None


def test_a_line_cut_off_by_a_kill_is_dropped_and_a_damaged_one_is_an_error(tmp_path):
    import msgspec

    path = tmp_path / "steps.jsonl"
    lines = [msgspec.json.encode(step(i)) for i in (1, 2)]
    path.write_bytes(b"\n".join([*lines, lines[0][:20]]))
    assert [s.step for s in read_steps(path)] == [1, 2]
    path.write_bytes(b"\n".join([lines[0][:20], *lines]))
    with pytest.raises(UserError, match="line 1 is not a Step record"):
        read_steps(path)
