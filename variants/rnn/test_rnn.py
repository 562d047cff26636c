"""What the contract tests cannot know: the equations, the exact counts, and the dtype that the cell runs in."""

from types import SimpleNamespace

import pytest
import torch
from elmanctl_variants.rnn import variant

from elmanctl.cudnn import CUDNN_WITH_BF16, cell_weights
from elmanctl.errors import UserError
from elmanctl.model import LadderLM, parameter_count
from elmanctl.variant import Spec

SPEC = Spec(variant, variant.config(expansion=2))
DIM, INNER = 6, 12


@pytest.fixture
def layer():
    """Return a small layer in float64, with the parameters that start at zero drawn, so that nothing is hidden by a zero."""
    torch.manual_seed(0)
    (layer,) = SPEC.layers(DIM)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return layer.double()


def test_counts():
    for dim in (128, 384):
        inner = 2 * dim
        with torch.device("meta"):
            model = LadderLM(SPEC, dim, 20)
        one = 2 * dim * inner + 2 * inner**2 + 2 * inner
        assert parameter_count(model) == 256 * dim + 20 * (one + dim) + dim
    assert parameter_count(model) == 35_526_528


def test_follows_the_equations(layer):
    x, h = torch.randn(3, 5, DIM).double(), torch.randn(3, INNER).double()
    y, last = layer(x, {"h": h})
    cell, u = layer.cell, x @ layer.in_proj.weight.T
    expected = []
    for t in range(5):
        h = torch.tanh(u[:, t] @ cell.weight_ih_l0.T + cell.bias_ih_l0 + h @ cell.weight_hh_l0.T + cell.bias_hh_l0)
        expected.append(h @ layer.out_proj.weight.T)
    torch.testing.assert_close(y, torch.stack(expected, dim=1))
    torch.testing.assert_close(last["h"], h)
    assert last["h"].dtype == torch.float64


def test_split_equals_whole_and_starts_at_zero(layer):
    x = torch.randn(2, 7, DIM).double()
    whole, last = layer(x)
    head, state = layer(x[:, :3], layer.initial_state(2, "cpu", torch.float64))
    tail, end = layer(x[:, 3:], state)
    torch.testing.assert_close(torch.cat([head, tail], dim=1), whole)
    torch.testing.assert_close(end["h"], last["h"])


def test_gradient_reaches_every_parameter_and_the_state(layer):
    state = {"h": torch.randn(2, INNER).double().requires_grad_()}
    _, last = layer(torch.randn(2, 4, DIM).double(), state)
    last["h"].sum().backward()
    assert state["h"].grad.abs().min() > 0
    reached = {name for name, p in layer.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert reached == {name for name, _ in layer.named_parameters()} - {"out_proj.weight"}
    layer(torch.randn(2, 4, DIM).double())[0].sum().backward()
    assert layer.out_proj.weight.grad.abs().max() > 0


def test_a_fresh_layer_adds_nothing_and_has_orthogonal_recurrence():
    (layer,) = SPEC.layers(DIM)
    assert not layer(torch.randn(2, 4, DIM))[0].any()
    recurrent = layer.cell.weight_hh_l0.detach()
    torch.testing.assert_close(recurrent @ recurrent.T, torch.eye(INNER))


def test_autocast_runs_the_cell_in_its_own_dtype(layer, monkeypatch):
    layer, seen, rnn = layer.float(), [], torch.rnn_tanh
    monkeypatch.setattr(torch, "rnn_tanh", lambda u, h0, *rest: seen.extend([u, h0, *rest[0]]) or rnn(u, h0, *rest))
    x, state = torch.randn(2, 7, DIM), {"h": torch.randn(2, INNER)}
    exact, _ = layer(x, state)
    seen.clear()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, last = layer(x, state)
    assert {tensor.dtype for tensor in seen} == {torch.bfloat16}
    assert len({w.untyped_storage().data_ptr() for w in seen[2:]}) == 1, "cuDNN wants the weights in one buffer"
    assert y.dtype == torch.bfloat16 and last["h"].dtype == torch.float32
    # bfloat16 rounds to 2^-9; the outputs are sums of 12 products of numbers around 1.
    torch.testing.assert_close(y.float(), exact, atol=0.1, rtol=0.05)
    y.sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in layer.parameters())


def test_an_old_cudnn_is_refused(layer, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 90100)
    with pytest.raises(UserError, match=rf"RNN in bfloat16 needs cuDNN {CUDNN_WITH_BF16}.*90100"):
        cell_weights(layer.float().cell, SimpleNamespace(is_cuda=True, dtype=torch.bfloat16))
