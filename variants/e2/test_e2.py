"""What only E2 has: slots that differ, on one recurrent weight or on their own."""

import pytest
import torch

from elmanctl.plugins.registry import registry


@pytest.fixture(params=["E2s3", "E2s3:independent=true"])
def layer(request):
    torch.manual_seed(0)
    return registry().resolve(request.param).layers(32)[0].eval()


def test_slots_differ_from_a_zero_state(layer):
    """Published slots shared every weight: from a zero state they stayed equal, and were one state at the cost of several."""
    _, state = layer(torch.randn(2, 6, 32))
    h = state["h"]  # B, S, inner
    assert h.shape == (2, 3, 32)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert (h[:, a] - h[:, b]).norm() > 0.1 * h[:, a].norm()


def test_slots_with_equal_weights_would_not(layer):
    with torch.no_grad():
        layer.W_x.copy_(layer.W_x[:1].expand_as(layer.W_x).clone())
        for W in layer.W_h[1:]:
            W.load_state_dict(layer.W_h[0].state_dict())
    _, state = layer(torch.randn(2, 6, 32))
    torch.testing.assert_close(state["h"][:, 1:], state["h"][:, :1].expand(-1, 2, -1))


def test_a_slot_reads_its_own_row_of_the_state(layer):
    """Slot-major rows and batch-major state: a change to slot 1 of sequence 0 stays there."""
    x, first = torch.randn(2, 1, 32), layer.initial_state(2, "cpu")
    changed = {"h": first["h"].clone()}
    changed["h"][0, 1] += 1
    (_, a), (_, b) = layer(x, first), layer(x, changed)
    moved = (a["h"] - b["h"]).abs().amax(-1) > 1e-6
    assert moved.tolist() == [[False, True, False], [False, False, False]]


def test_the_bias_of_two_dimensions_is_not_decayed(layer):
    assert layer.b.ndim == 2 and "b" in layer.no_decay
