"""What the contract tests cannot know of E75: published names and counts, its initialisation, and what the rules refuse."""

import pytest
import torch

from elmanctl.errors import UserError
from elmanctl.plugins.registry import registry

from .layer import Layer


def language_model_count(spec, dim, depth=20):
    with torch.device("meta"):
        layer = Layer(dim, spec.config)
    return 256 * dim + depth * (sum(p.numel() for p in layer.parameters()) + dim) + dim


@pytest.mark.parametrize(
    "name, dim, count",
    [
        ("E75h4n16", 2048, 97_561_856),
        ("E75h4n24", 2048, 104_116_096),
        ("E75h4n32", 1920, 98_838_400),
        ("E75h8n16", 1920, 98_838_400),
        ("E75h8n24", 1792, 99_131_904),
    ],
)
def test_published_counts(name, dim, count):
    assert language_model_count(registry().resolve(name), dim) == count


def test_a_name_without_a_width_means_32():
    assert registry().resolve("E75h4").name == "E75h4n32"
    assert registry().resolve("E75h7").config.n_state == 32


def test_expansion_widens_the_inner_projection_only():
    spec = registry().resolve("E75h2n8:expansion=2")
    layer = Layer(32, spec.config)
    assert layer.W_in.shape == (64, 32) and layer.W_qkvb.shape == (64, 64) and layer.W_out.shape == (32, 16)


@pytest.mark.parametrize(
    "name, dim, texts",
    [
        ("E75h4n20", None, ("n_state=20 is not a multiple of 8", "Nearest: 16, 24.")),
        ("E75h4n72", None, ("n_state=72", "Nearest: 64, 96.")),
        ("E75h4n32", 200, ("dim=200 is not a multiple of 16", "Nearest: 192, 208.")),
        ("E75h4n32:expansion=1.3", 128, ("inner width 166", "multiple of 16")),
    ],
)
def test_rules_name_the_value_the_reason_and_the_way_out(name, dim, texts):
    with pytest.raises(UserError) as caught:
        registry().resolve(name).check(dim, relaxed=("dim",))
    assert all(text in str(caught.value) for text in texts), caught.value


def test_initialisation():
    torch.manual_seed(0)
    layer = Layer(128, registry().resolve("E75h4n16").config)
    for weight, bound in (
        (layer.W_in, (6 / 256) ** 0.5),
        (layer.W_qkvb, (6 / (128 + 16)) ** 0.5),
        (layer.W_out, (6 / (128 + 64)) ** 0.5),
    ):
        assert 0.97 * bound < weight.abs().max() <= bound
    assert bool((layer.beta_bias == 2).all()) and "beta_bias" in layer.no_decay
