"""What only E2 has: slots that differ, on one recurrent weight, on their own, or on none."""

import pytest
import torch

from elmanctl.errors import UserError
from elmanctl.plugins.registry import registry

DENSE, DIAGONAL = ["E2s3", "E2s3:independent=true"], "E2ds3"


@pytest.fixture(params=[*DENSE, DIAGONAL])
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
        own = layer.drive if layer.config.diagonal else layer.W_x
        own.copy_(own[:1].expand_as(own).clone())
        for W in () if layer.config.diagonal else layer.W_h[1:]:
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


def test_each_slot_is_read_out(layer):
    """The number of slots is alive: a change to any one of the first states moves the output, of its own sequence alone."""
    x, first = torch.randn(2, 3, 32), layer.initial_state(2, "cpu")
    y, _ = layer(x, first)
    for slot in range(3):
        changed = {"h": first["h"].clone()}
        changed["h"][0, slot] += 1
        moved = (layer(x, changed)[0] - y).norm(dim=(1, 2)) / y.norm(dim=(1, 2))
        assert moved[0] > 1e-3 and moved[1] == 0, slot


def test_biases_and_decays_of_two_dimensions_are_not_decayed(layer):
    name = "decay" if layer.config.diagonal else "b"
    assert getattr(layer, name).ndim == 2 and name in layer.no_decay


def test_diagonal_slots_are_the_first_version_of_the_level():
    """h_s = lambda_s h_s + B_s x, read out as (sum of C_s h_s) silu(z); lambda starts at 0.9."""
    torch.manual_seed(0)
    layer = registry().resolve(DIAGONAL).layers(32)[0]
    x = torch.randn(2, 6, 32)
    y, state = layer(x)
    u, z = layer.W_in(x).chunk(2, -1)
    u, h = torch.nn.functional.silu(u), torch.zeros(2, 3, 32)
    for t in range(6):
        h = 0.9 * h + layer.drive * u[:, t, None]
        torch.testing.assert_close(y[:, t], layer.W_out(h.mean(1) * torch.nn.functional.silu(z[:, t])))
    torch.testing.assert_close(state["h"], h)


@pytest.mark.parametrize("option", ["independent=true", "spectral_norm=false", "recurrence=cublas"])
def test_diagonal_slots_refuse_options_of_a_product(option):
    with pytest.raises(UserError, match="diagonal=true has no recurrent weight"):
        registry().resolve(f"{DIAGONAL}:{option}").check()
