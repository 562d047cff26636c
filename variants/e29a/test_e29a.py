"""What a tape adds: slots that differ only if their first values do, and rows that begin at different times. E29c has the same layer."""

import pytest
import torch

from elmanctl.plugins.registry import registry
from elmanctl.state import reset_rows

WIDTH, SLOTS = 32, 3


def made(name):
    torch.manual_seed(0)
    return registry().resolve(name).layers(WIDTH)[0].eval()


def spread(tape):
    """Return how far the slots of a tape [B, N, dim] lie from their mean, over its size."""
    tape = tape.detach()
    return float((tape - tape.mean(1, keepdim=True)).norm() / tape.norm())


@pytest.mark.parametrize("name", ["E29an3", "E29cn3"])
def test_slots_differ(name):
    _, state = made(name)(torch.randn(2, 6, WIDTH))
    assert state["tape"].shape == (2, SLOTS, WIDTH) and spread(state["tape"]) > 0.1


def test_slots_of_a_zero_tape_stay_equal():
    """Each gets the same weight at every step, so that the tape is one vector: the published form."""
    _, state = made("E29an3:tape=zero")(torch.randn(2, 6, WIDTH))
    assert state["tape"].norm() > 0.1 and spread(state["tape"]) < 1e-6


@pytest.mark.parametrize("name", ["E29an3", "E29cn3"])
def test_each_slot_is_read(name):
    """The number of slots is alive: a change to any one of a tape moves the output."""
    layer, x = made(name), torch.randn(1, 3, WIDTH)
    first = layer.initial_state(1, "cpu")
    y, _ = layer(x, first)
    for slot in range(SLOTS):
        tape = first["tape"].clone()
        tape[:, slot] += torch.randn(WIDTH)
        assert (layer(x, {**first, "tape": tape})[0] - y).norm() > 1e-3 * y.norm(), slot


def test_rows_begin_when_they_begin():
    """A row that is reset while others go on reads M_0 again, and M_0 gets its gradient and no other's."""
    layer, x = made("E29an3"), torch.randn(2, 8, WIDTH)
    with torch.no_grad():
        fresh, _ = layer(x[:1, 4:])
        whole, _ = layer(x[1:])
    _, state = layer(x[:, :4])
    state = {name: t.detach() for name, t in state.items()}
    state = reset_rows(state, layer.initial_state(2, "cpu"), torch.tensor([True, False]))
    y, _ = layer(x[:, 4:], state)
    torch.testing.assert_close(y[:1], fresh)
    torch.testing.assert_close(y[1:], whole[:, 4:])
    of_new, of_old = (torch.autograd.grad(row.sum(), layer.M_0, retain_graph=True)[0] for row in y)
    assert of_new.norm() > 0 and not of_old.any()
