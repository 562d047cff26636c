import pytest

from elmanctl.progress import Live, clock, describe
from elmanctl.records import Step


def step(number, seconds):
    return Step(step=number, loss=1.5, lr=1.0, grad_norm=1.0, seconds=seconds, tokens=10)


@pytest.mark.parametrize(("seconds", "text"), [(-1, "0s"), (41.6, "42s"), (187, "3:07"), (3723, "1:02:03")])
def test_clock(seconds, text):
    assert clock(seconds) == text


def test_the_time_left_follows_from_the_share_of_the_budget():
    assert (
        describe(step(50, 30.0), 0.25, 123456.0) == "step 50  loss 1.5000  123,456 tok/s  25% of the budget  1:30 left"
    )
    assert "tok/s" not in describe(step(1, 0.1), 0.01, None) and "? left" in describe(step(1, 0.1), 0.0, None)


def test_without_a_terminal_it_says_what_it_prepares_and_then_little(capsys, monkeypatch):
    with Live() as live:
        live.phase("building the model")
        live.step(step(1, 1.0), 0.1, None)
        live.phase("writing a checkpoint")
        assert capsys.readouterr().err == "Building the model\n"
        monkeypatch.setattr("elmanctl.progress.QUIET_SECONDS", 0.0)
        live.step(step(2, 2.0), 0.2, 5.0)
    ran = capsys.readouterr()
    assert "step 2  loss 1.5000  5 tok/s" in ran.err and ran.out == ""
