"""What the contract tests cannot know: the exact count, the attention against its definition, and positions over pieces."""

import math

import pytest
import torch
from elmanctl_variants.llama import variant
from elmanctl_variants.llama.layer import HEAD, rotate

from elmanctl.model import LadderLM, parameter_count
from elmanctl.variant import Spec

SPEC = Spec(variant, variant.config())
DIM = 128


@pytest.fixture
def sublayers():
    torch.manual_seed(0)
    return [layer.double() for layer in SPEC.layers(DIM)]


@pytest.mark.parametrize(("dim", "hidden", "params"), [(640, 1792, 101_770_880), (128, 512, None)])
def test_counts(dim, hidden, params):
    with torch.device("meta"):
        model = LadderLM(SPEC, dim, 20)
    assert parameter_count(model) == 256 * dim + 20 * (4 * dim**2 + 3 * dim * hidden + 2 * dim) + dim
    assert params in (None, parameter_count(model))
    assert len(model.layers) == len(model.norms) == 40


def test_attention_follows_its_definition(sublayers):
    attention, x = sublayers[0], torch.randn(2, 5, DIM).double()
    weights = attention.qkv.weight.chunk(3)
    expected = torch.zeros(2, 5, DIM).double()
    for head in range(DIM // HEAD):
        rows = slice(HEAD * head, HEAD * (head + 1))
        q, k, v = (x @ w[rows].T for w in weights)
        for t in range(5):
            scores = torch.stack(
                [(turned(q[:, t], t) * turned(k[:, s], s)).sum(-1) / math.sqrt(HEAD) for s in range(t + 1)], dim=-1
            )
            expected[:, t, rows] = torch.einsum("bs,bsd->bd", scores.softmax(-1), v[:, : t + 1])
    torch.testing.assert_close(attention(x)[0], expected @ attention.out_proj.weight.T)


def turned(x, position):
    """Rotate the pairs of one head, [B, 64], one pair at a time."""
    out = x.clone()
    for i in range(0, HEAD, 2):
        angle = position * 1e4 ** (-i / HEAD)
        cos, sin = math.cos(angle), math.sin(angle)
        out[:, i], out[:, i + 1] = x[:, i] * cos - x[:, i + 1] * sin, x[:, i] * sin + x[:, i + 1] * cos
    return out


def test_rotation_depends_on_the_distance_only():
    q, k = torch.randn(2, 1, 1, 1, 1, HEAD).double()
    scores = [(rotate(q, 7 + shift) * rotate(k, 3 + shift)).sum().item() for shift in (0, 1, 500)]
    assert scores[1:] == pytest.approx([scores[0]] * 2, abs=1e-9)
    assert (rotate(q, 8) * rotate(k, 3)).sum().item() != pytest.approx(scores[0], abs=1e-3)


def test_feed_forward_follows_its_definition(sublayers):
    feed_forward, x = sublayers[1], torch.randn(2, 3, DIM).double()
    w1, w2 = feed_forward.up.weight.chunk(2)
    hidden = torch.nn.functional.silu(x @ w1.T) * (x @ w2.T)
    y, state = feed_forward(x)
    torch.testing.assert_close(y, hidden @ feed_forward.down.weight.T)
    assert state == {}


@pytest.mark.parametrize("cuts", [(3,), (1, 2), (6,)])
def test_pieces_equal_the_whole_model(cuts):
    torch.manual_seed(0)
    model = LadderLM(SPEC, DIM, 2).double()
    tokens = torch.randint(256, (2, 7))
    whole, _ = model(tokens)
    state, logits = model.initial_state(2, "cpu", torch.float64), []
    for piece in tokens.tensor_split(cuts, dim=1):
        y, state = model(piece, state)
        logits.append(y)
    torch.testing.assert_close(torch.cat(logits, dim=1), whole)
    assert state[0]["k"].shape == (2, 7, DIM // HEAD, HEAD)


def test_later_bytes_leave_earlier_outputs_alone(sublayers):
    attention, x = sublayers[0], torch.randn(2, 6, DIM).double()
    changed = x.clone()
    changed[:, 4:] += 1
    before, after = attention(x)[0], attention(changed)[0]
    assert torch.equal(before[:, :4], after[:, :4])
    assert (before[:, 4:] != after[:, 4:]).any(-1).all()


def test_gradient_reaches_every_parameter_and_the_state(sublayers):
    attention, feed_forward = sublayers
    _, state = attention(torch.randn(2, 3, DIM).double())
    state = {key: value.detach().requires_grad_() for key, value in state.items()}
    feed_forward(attention(torch.randn(2, 4, DIM).double(), state)[0])[0].square().sum().backward()
    gradients = [p.grad for layer in sublayers for p in layer.parameters()] + [s.grad for s in state.values()]
    assert all(g.isfinite().all() and g.abs().max() > 0 for g in gradients)


def test_each_matrix_is_drawn_with_its_own_fan():
    attention, feed_forward = SPEC.layers(640)
    bound = math.sqrt(6 / (640 + 640))
    assert bound * 0.99 < attention.qkv.weight.abs().max() < bound
    bound = math.sqrt(6 / (640 + 1792))
    assert bound * 0.99 < feed_forward.up.weight.abs().max() < bound
