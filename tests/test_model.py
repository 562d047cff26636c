import math

import pytest
import torch
import torch.nn.functional as F

from elmanctl.model import LadderLM, expected_initial_loss, parameter_count
from elmanctl.plugins.registry import registry
from elmanctl.state import reset_rows


@pytest.fixture
def model(trainee):
    torch.manual_seed(0)
    return LadderLM(registry().resolve("Toy"), 16, 2)


def tokens(*shape):
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(1))


def test_forward_is_add_then_norm_then_layer(model):
    """The block, written out with torch's own RMSNorm."""
    for norm in (*model.norms, model.final_norm):
        torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
    text = tokens(2, 5)
    x, r = F.embedding(text, model.embedding), 0
    for norm, layer in zip(model.norms, model.layers, strict=True):
        r = r + x
        x, _ = layer(F.rms_norm(r, (16,), norm.weight, 1e-5))
    expected = F.rms_norm(r + x, (16,), model.final_norm.weight, 1e-5) @ model.embedding.T
    logits, _ = model(text)
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-6)


def test_the_norm_shields_a_layer_from_the_scale_of_the_stream(model):
    """Layers see inputs of unit mean square whatever the embedding's scale."""
    seen = []
    model.layers[1].register_forward_hook(lambda module, args, out: seen.append(args[0].square().mean(-1)))
    with torch.no_grad():
        model.embedding.mul_(1000)
        model(tokens(2, 5))
    assert torch.allclose(seen[0], torch.ones(2, 5), atol=1e-3)


def test_count_is_embedding_layers_and_norms_and_the_same_on_meta(model):
    layer = sum(p.numel() for p in model.layers[0].parameters())
    assert parameter_count(model) == 256 * 16 + 2 * (layer + 16) + 16
    with torch.device("meta"):
        assert parameter_count(LadderLM(registry().resolve("Toy"), 16, 2)) == parameter_count(model)


def test_embedding_has_the_method_s_scale(model):
    assert model.embedding.std().item() == pytest.approx(0.02, rel=0.05)


def test_loss_is_the_mean_over_next_bytes(model):
    text = tokens(2, 6)
    logits, _ = model(text[:, :-1])
    chosen = logits.log_softmax(-1).gather(-1, text[:, 1:, None])
    loss, _ = model.loss(text.to(torch.uint8))
    assert loss.item() == pytest.approx(-chosen.mean().item(), rel=1e-6)


def test_two_halves_with_carried_state_are_the_whole(model):
    text = tokens(3, 8)
    whole, last = model(text)
    first, state = model(text[:, :3])
    second, carried = model(text[:, 3:], state)
    torch.testing.assert_close(torch.cat([first, second], 1), whole)
    torch.testing.assert_close(carried, last)


def test_a_reset_row_starts_afresh_and_the_others_go_on(model):
    text = tokens(2, 8)
    _, state = model(text[:, :4])
    mask = torch.tensor([True, False])
    got, _ = model(text[:, 4:], reset_rows(state, model.initial_state(2), mask))
    fresh, _ = model(text[:, 4:])
    carried, _ = model(text[:, 4:], state)
    torch.testing.assert_close(got, torch.stack([fresh[0], carried[1]]))
    assert not torch.allclose(fresh[1], carried[1])


@pytest.mark.parametrize("dim", [64, 1024])
def test_expected_initial_loss_is_that_of_an_independent_readout(dim):
    generator = torch.Generator().manual_seed(0)
    embedding = 0.02 * torch.randn(256, dim, generator=generator)
    readout = F.rms_norm(torch.randn(2000, dim, generator=generator), (dim,))
    targets = torch.randint(0, 256, (2000,), generator=generator)
    loss = F.cross_entropy(readout @ embedding.T, targets).item()
    # The mean over 2000 targets has a standard error of sqrt(0.0004 dim / 2000).
    assert loss == pytest.approx(expected_initial_loss(dim), abs=4 * math.sqrt(4e-4 * dim / 2000))


def test_state_of_a_variant_with_two_sublayers_has_one_entry_each(trainee):
    """A real baseline: attention and FFN, each with its own norm."""
    with torch.device("meta"):
        model = LadderLM(registry().resolve("llama"), 128, 2)
    assert len(model.layers) == len(model.norms) == 4


@pytest.mark.parametrize("name", sorted(registry().variants()))
def test_evaluation_runs_the_path_that_was_trained(name):
    """No layer does something else in eval mode, so a held-out loss speaks of the trained model."""
    variant = registry().variants()[name]
    if variant.missing():
        pytest.skip(f"{name} needs {', '.join(variant.missing())}")
    torch.manual_seed(0)
    model = LadderLM(registry().resolve(name), 64, 1)
    with torch.no_grad():
        for p in model.parameters():  # layers that begin as nothing would hide a difference
            p.add_(0.02 * torch.randn_like(p))
        # What a layer estimates a little better at every call (a spectral norm) settles; the rest is equal at once.
        for _ in range(60 if list(model.buffers()) else 0):
            model.loss(tokens(1, 2))
        losses = [model.train(mode).loss(tokens(2, 6))[0].item() for mode in (True, False)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
