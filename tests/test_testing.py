"""The helpers for tests of a variant's folder can fail."""

import pytest
import torch

from elmanctl import testing
from elmanctl.plugins.registry import registry


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return registry().resolve("E75h2n8").layers(32)[0].double()


def test_results_have_outputs_states_and_every_gradient_and_a_cut_changes_none(layer):
    x = torch.randn(2, 5, 32, dtype=torch.float64)
    whole, cut = testing.results(layer, x, "reference"), testing.results(layer, x, "reference", cut=2)
    assert set(whole) == {"y", "s", "d_x", *(f"d_{name}" for name, _ in layer.named_parameters())}
    torch.testing.assert_close(cut, whole, rtol=1e-10, atol=1e-12)


def test_a_layer_that_forgets_its_state_fails(layer, monkeypatch):
    testing.check_pieces(layer)
    real = layer.forward
    monkeypatch.setattr(layer, "forward", lambda x, state=None: real(x, None))
    with pytest.raises(AssertionError):
        testing.check_pieces(layer)


def test_a_kernel_that_disagrees_fails(layer, monkeypatch):
    x = torch.randn(2, 3, 32, dtype=torch.float64)
    assert testing.check_agreement(layer, x)["y"].shape == (2, 3, 32)
    real = testing.results
    monkeypatch.setattr(
        testing, "results", lambda *a: {n: t * (1 + 1e-6 * (a[2] == "host")) for n, t in real(*a).items()}
    )
    with pytest.raises(AssertionError):
        testing.check_agreement(layer, x)


def test_a_refusal_says_what_was_expected():
    testing.check_refusal("E75h4n20", None, ("Nearest: 16, 24.",))
    with pytest.raises(AssertionError, match="not in:"):
        testing.check_refusal("E75h4n20", None, ("something else",))
    with pytest.raises(AssertionError, match="E75h4n16 at dim=128 is allowed"):
        testing.check_refusal("E75h4n16", 128, ())
