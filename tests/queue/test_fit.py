"""What is given up for memory, on devices that are made of a formula."""

import msgspec
import pytest

from elmanctl.queue import fit
from elmanctl.queue.fit import Fit
from elmanctl.records import Budget, Training, Trial, check_shares

TRIAL = Trial(
    label="a",
    model="M",
    dim=2048,
    depth=20,
    params=10**9,
    budget=Budget(steps=1),
    training=Training(batch=32, chunk=512),
)
CONSTANT, LAYER = 18 * TRIAL.params, 30_000  # bytes; of a layer, for each position
GIB = 2**30


def peak(trial: Trial, one: Fit) -> int:
    """A model of memory: weights, the layers that are kept, the inputs of the others, the logits."""
    at = trial.training.batch // one.micro_batches * trial.training.chunk
    kept = (trial.depth - one.checkpoint_layers + (one.checkpoint_layers > 0)) * LAYER
    return round(CONSTANT + at * (kept + one.checkpoint_layers * 6 * trial.dim + 2560 / one.loss_chunks))


def walk(trial: Trial, capacity: int, known: bool = True) -> tuple[list[Fit], dict[Fit, int | None]]:
    """Return what was run, in order, on a device of so many bytes."""
    tried: dict[Fit, int | None] = {}
    while (one := fit.following(trial, tried, capacity if known else None)) is not None:
        assert one not in tried
        tried[one] = found if (found := peak(trial, one)) <= fit.ROOM * capacity else None
    return list(tried), tried


def test_a_row_that_fits_as_it_is_runs_once():
    assert walk(TRIAL, 80 * GIB)[0] == [Fit()]


def test_the_ladder_gives_up_the_loss_first_then_layers_then_rows():
    steps = fit.ladder(TRIAL)
    assert steps[:2] == [Fit(), Fit(8)] and [s.checkpoint_layers for s in steps[2:6]] == [5, 10, 15, 20]
    assert [s.micro_batches for s in steps] == [1, 1, 1, 1, 1, 1, 2, 4, 8, 16]
    peaks = [peak(TRIAL, step) for step in steps]
    assert peaks == sorted(peaks, reverse=True)


@pytest.mark.parametrize("capacity", [26, 24, 22, 20])
def test_two_small_steps_tell_which_fit_is_the_least_thrifty_that_fits(capacity):
    """Predictions are exact on such a device, so the fit that is run third is the first of the ladder that fits."""
    ran, tried = walk(TRIAL, capacity * GIB)
    assert [one.micro_batches for one in ran[:3]] == [1, 16, 8] and len(ran) == 4
    wanted = next(s for s in fit.ladder(TRIAL) if peak(TRIAL, s) <= fit.ROOM * capacity * GIB)
    assert ran[3] == wanted and tried[wanted] is not None


def test_predictions_are_those_of_the_model():
    measured = {s: peak(TRIAL, s) for s in fit.samples(TRIAL)}
    for step in fit.ladder(TRIAL):
        assert fit.predicted(TRIAL, step, measured) == pytest.approx(peak(TRIAL, step), rel=1e-6)


def test_without_a_known_capacity_every_step_is_run_until_one_fits():
    ran, _ = walk(TRIAL, 24 * GIB, known=False)
    assert ran == fit.ladder(TRIAL)[: len(ran)] and peak(TRIAL, ran[-1]) <= fit.ROOM * 24 * GIB


def test_what_nothing_helps_ends_with_the_thriftiest():
    ran, tried = walk(TRIAL, 10 * GIB)
    assert ran[-1] == Fit(8, 20, 16) and set(tried.values()) == {None}


def test_what_a_trial_asks_for_is_never_taken_back():
    training = msgspec.structs.replace(TRIAL.training, checkpoint_layers=12, loss_chunks=16)
    steps = fit.ladder(msgspec.structs.replace(TRIAL, training=training, micro_batches=2))
    assert steps[0] == Fit(16, 12, 2) == steps[0]
    assert all(s.loss_chunks == 16 and s.checkpoint_layers >= 12 and s.micro_batches >= 2 for s in steps)


def test_a_batch_that_cannot_be_cut_is_left_whole():
    odd = msgspec.structs.replace(TRIAL, training=Training(batch=3))
    assert fit.samples(odd) == [] and {s.micro_batches for s in fit.ladder(odd)} == {1}
    assert walk(odd, 20 * GIB)[0][-1].micro_batches == 1


def test_on_several_gpus_each_rank_has_whole_micro_batches():
    """What is tried is what a trial may be: records.check_shares, which it is started with, takes every step of the ladder."""
    for batch, ranks, most in ((8, 2, 4), (8, 8, 1), (12, 2, 2), (64, 2, 16)):
        shared = msgspec.structs.replace(TRIAL, training=Training(batch=batch), ranks=ranks)
        steps = fit.ladder(shared)
        assert max(one.micro_batches for one in steps) == most
        for one in steps:
            check_shares(batch, ranks, one.micro_batches)
    two = msgspec.structs.replace(TRIAL, training=Training(batch=8), ranks=2)
    assert walk(two, 10 * GIB)[0][-1].micro_batches == 4
    assert Fit(micro_batches=2).text(two) == "2 micro-batches of 2 rows"
    half = msgspec.structs.replace(TRIAL, training=Training(batch=4))
    assert fit.positions(two, Fit()) == fit.positions(half, Fit())


def test_a_fit_is_said_and_applied():
    one = Fit(8, 15, 4)
    assert one.text(TRIAL) == "loss in 8 chunks, 15 of 20 layers checkpointed, 4 micro-batches of 8 rows"
    trial = one.applied(TRIAL)
    assert fit.asked(trial) == one and Fit().text(TRIAL) == "" and fit.asked(TRIAL).applied(trial) == TRIAL
