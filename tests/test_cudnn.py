"""cuDNN's cells as layers: what the contract tests cannot know. The equations, exact counts, and the dtype that a cell runs in."""

from types import SimpleNamespace

import pytest
import torch

from elmanctl.cudnn import CUDNN_WITH_BF16, cell_weights
from elmanctl.errors import UserError
from elmanctl.model import LadderLM, parameter_count
from elmanctl.plugins.registry import registry

DIM, INNER, DEPTH = 6, 12, 20
# name: torch's function, gates, parameters of a model of width 384 and depth 20 with cells of twice the width
CELLS = {"rnn": ("rnn_tanh", 1, 35_526_528), "gru": ("gru", 3, 82_773_888), "lstm": ("lstm", 4, 106_397_568)}


@pytest.fixture(params=CELLS)
def name(request):
    return request.param


@pytest.fixture
def spec(name):
    return registry().resolve(name, {"expansion": "2"})


@pytest.fixture
def layer(spec):
    """Return a small layer in float64, with the parameters that start at zero drawn, so that nothing is hidden by a zero."""
    torch.manual_seed(0)
    (layer,) = spec.layers(DIM)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return layer.double()


def state_of(layer, batch):
    return {key: torch.randn(batch, INNER).double() for key in layer.states}


def test_counts(name, spec):
    gates, wanted = CELLS[name][1:]
    for dim in (128, 384):
        inner = 2 * dim
        with torch.device("meta"):
            model = LadderLM(spec, dim, DEPTH)
        one = 2 * dim * inner + gates * (2 * inner**2 + 2 * inner)
        assert parameter_count(model) == 256 * dim + DEPTH * (one + dim) + dim
    assert parameter_count(model) == wanted


def rnn(cell, u, h):
    return {"h": torch.tanh(u @ cell.weight_ih_l0.T + cell.bias_ih_l0 + h @ cell.weight_hh_l0.T + cell.bias_hh_l0)}


def gru(cell, u, h):
    a = (u @ cell.weight_ih_l0.T + cell.bias_ih_l0).chunk(3, dim=-1)
    b = (h @ cell.weight_hh_l0.T + cell.bias_hh_l0).chunk(3, dim=-1)
    r, z = torch.sigmoid(a[0] + b[0]), torch.sigmoid(a[1] + b[1])
    return {"h": (1 - z) * torch.tanh(a[2] + r * b[2]) + z * h}


def lstm(cell, u, h, c):
    pre = u @ cell.weight_ih_l0.T + cell.bias_ih_l0 + h @ cell.weight_hh_l0.T + cell.bias_hh_l0
    i, f, g, o = pre.chunk(4, dim=-1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return {"h": torch.sigmoid(o) * torch.tanh(c), "c": c}


STEPS = {"rnn": rnn, "gru": gru, "lstm": lstm}


def test_follows_the_equations(name, layer):
    x, state = torch.randn(3, 5, DIM).double(), state_of(layer, 3)
    y, last = layer(x, state)
    u, expected = x @ layer.in_proj.weight.T, []
    for t in range(5):
        state = STEPS[name](layer.cell, u[:, t], **state)
        expected.append(state["h"] @ layer.out_proj.weight.T)
    torch.testing.assert_close(y, torch.stack(expected, dim=1))
    torch.testing.assert_close(last, state)
    assert {t.dtype for t in last.values()} == {torch.float64}


def test_split_equals_whole_and_starts_at_zero(layer):
    x = torch.randn(2, 7, DIM).double()
    whole, last = layer(x)
    head, state = layer(x[:, :3], layer.initial_state(2, "cpu", torch.float64))
    tail, end = layer(x[:, 3:], state)
    torch.testing.assert_close(torch.cat([head, tail], dim=1), whole)
    torch.testing.assert_close(end, last)


def test_gradient_reaches_every_parameter_and_the_state(layer):
    state = {key: t.requires_grad_() for key, t in state_of(layer, 2).items()}
    _, last = layer(torch.randn(2, 4, DIM).double(), state)
    sum(last.values()).sum().backward()
    assert min(t.grad.abs().min() for t in state.values()) > 0
    reached = {n for n, p in layer.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert reached == {n for n, _ in layer.named_parameters()} - {"out_proj.weight"}
    layer(torch.randn(2, 4, DIM).double())[0].sum().backward()
    assert layer.out_proj.weight.grad.abs().max() > 0


def test_a_fresh_layer_adds_nothing_and_has_orthogonal_recurrence(name, spec):
    (layer,) = spec.layers(DIM)
    gates = CELLS[name][1]
    assert layer.gates == gates and not layer(torch.randn(2, 4, DIM))[0].any()
    for gate in layer.cell.weight_hh_l0.detach().chunk(gates):
        torch.testing.assert_close(gate @ gate.T, torch.eye(INNER))
    bias = (layer.cell.bias_ih_l0 + layer.cell.bias_hh_l0).detach().chunk(gates)
    starts = [[1] if (name, i) == ("lstm", 1) else [0] for i in range(gates)]
    assert [part.unique().tolist() for part in bias] == starts, "forget gates start open, others half open"


def test_autocast_runs_the_cell_in_its_own_dtype(name, layer, monkeypatch):
    layer, seen, function = layer.float(), [], getattr(torch, CELLS[name][0])

    def watched(u, first, weights, *rest):
        seen.extend([u, *(first if isinstance(first, list) else [first]), *weights])
        return function(u, first, weights, *rest)

    monkeypatch.setattr(torch, CELLS[name][0], watched)
    x, state = torch.randn(2, 7, DIM), {key: t.float() for key, t in state_of(layer, 2).items()}
    exact, _ = layer(x, state)
    assert len(seen) == 1 + len(layer.states) + 4
    seen.clear()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, last = layer(x, state)
    assert {tensor.dtype for tensor in seen} == {torch.bfloat16}
    assert len({w.untyped_storage().data_ptr() for w in seen[-4:]}) == 1, "cuDNN wants the weights in one buffer"
    assert y.dtype == torch.bfloat16 and {t.dtype for t in last.values()} == {torch.float32}
    # bfloat16 rounds to 2^-9; the outputs are sums of 12 products of numbers around 1.
    torch.testing.assert_close(y.float(), exact, atol=0.1, rtol=0.05)
    y.sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in layer.parameters())


def test_an_old_cudnn_is_refused(layer, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 90100)
    kind = type(layer.cell).__name__
    with pytest.raises(UserError, match=rf"{kind} in bfloat16 needs cuDNN {CUDNN_WITH_BF16}.*90100"):
        cell_weights(layer.float().cell, SimpleNamespace(is_cuda=True, dtype=torch.bfloat16))
