"""What the contract tests cannot know of E75: published names and counts, its initialisation, and what the rules refuse."""

import pytest
import torch

from elmanctl.plugins.registry import registry
from elmanctl.testing import check_agreement, check_pieces, check_refusal

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


# Canonical names of what published names stand for.
NAMES = {
    "E75h4": "E75h4n32",
    "E75h7": "E75h7n32",
    "E75n48": "E75h1n48",
    "E75n96": "E75h1n96",
    "E75pch8n24": "E75h8n24:post_conv=true",
    "E75vech4n16": "E75h4n16:linear_state=true",
    "E76": "E75h1n64:decay=log_space",
    "E76n48": "E75h1n48:decay=log_space",
    "E76-t-log": "E75h1n64:decay=log_space",
    "E76-t-sig": "E75h1n64",
    "E76-l-log": "E75h1n64:linear_state=true,decay=log_space",
    "E76-l-logn96": "E75h1n96:linear_state=true,decay=log_space",
    "E76-l-sign32": "E75h1n32:linear_state=true",
    "E77": "E75h1n64:linear_state=true",
    "E77n32": "E75h1n32:linear_state=true",
}


@pytest.mark.parametrize("name", NAMES)
def test_published_names(name):
    spec = registry().resolve(name)
    assert spec.name == NAMES[name] and registry().resolve(spec.name) == spec
    spec.check()


# Each option at H=2, n=8, dim=32, with what it adds to the parameters.
H, N, D = 2, 8, 32
OPTIONS = {
    "expansion=2": D * D + 4 * H * N * D,
    "linear_state=true": 0,
    "decay=log_space": H * N,
    "conv=true": 5 * D,
    "post_conv=true": -D * D + 3 * H * N * 5,
}


def made(options):
    torch.manual_seed(0)
    return Layer(D, registry().resolve(f"E75h{H}n{N}:{options}").config).double()


@pytest.mark.parametrize("options", [*OPTIONS, "post_conv=true,linear_state=true,decay=log_space"])
def test_each_option_counts_and_agrees_between_kernel_and_reference(options):
    with torch.device("meta"):
        sizes = [
            sum(p.numel() for p in Layer(D, registry().resolve(name).config).parameters())
            for name in (f"E75h{H}n{N}", f"E75h{H}n{N}:{options}")
        ]
    if options in OPTIONS:
        assert sizes[1] - sizes[0] == OPTIONS[options]
    else:
        assert sizes[1] == 4 * H * N * D + H * N + 3 * H * N * 5 + H * N * D + H * N
    truth = check_agreement(made(options), torch.randn(2, 11, D, dtype=torch.float64), cut=4)
    assert all(float(t.abs().max()) > 0 for t in truth.values())


@pytest.mark.parametrize("options", ["conv=true", "post_conv=true"])
def test_a_split_sequence_equals_the_whole(options):
    check_pieces(made(options))


def test_the_post_convolution_form_by_its_equations():
    """q, k and v through a convolution and silu, the gate from the input as it is, no inner width."""
    layer = made("post_conv=true")
    x = torch.randn(1, 5, D, dtype=torch.float64)
    raw, _ = layer.raw(x, layer.initial_state(1, "cpu", torch.float64))
    projected = x @ layer.W_qkvb.T
    for t in range(5):
        taps = [projected[:, t - 3 + j] if t - 3 + j >= 0 else torch.zeros_like(projected[:, 0]) for j in range(4)]
        sums = sum(layer.conv.weight[:, j] * tap[:, : 3 * H * N] for j, tap in enumerate(taps)) + layer.conv.bias
        torch.testing.assert_close(raw[:, t, : 3 * H * N], torch.nn.functional.silu(sums))
        torch.testing.assert_close(raw[:, t, 3 * H * N :], projected[:, t, 3 * H * N :])


def test_expansion_widens_the_inner_projection_only():
    spec = registry().resolve("E75h2n8:expansion=2")
    layer = Layer(32, spec.config)
    assert layer.W_in.shape == (64, 32) and layer.W_qkvb.shape == (64, 64) and layer.W_out.shape == (32, 16)


@pytest.mark.parametrize(
    "name, dim, texts",
    [
        ("E75h4n20", None, ("n_state=20 is not a multiple of 8", "Nearest: 16, 24.")),
        ("E75h4n104", None, ("n_state=104", "Nearest: 96, 128.")),
        ("E75h4n32", 200, ("dim=200 is not a multiple of 16", "Nearest: 192, 208.")),
        ("E75pch4n32:expansion=2", 128, ("post_conv=true with expansion=2", "Give expansion=1")),
        ("E75pch4n32:conv=true", 128, ("post_conv=true with conv=true", "Give one")),
        ("E75h4n160", None, ("n_state=160", "Nearest: 128.")),
        ("E75h4n32:expansion=1.3", 128, ("width 166", "not a multiple of 16")),
    ],
)
def test_rules_name_the_value_the_reason_and_the_way_out(name, dim, texts):
    check_refusal(name, dim, texts)


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


def test_initialisation_of_the_gate_in_log_space_and_of_the_convolution():
    torch.manual_seed(0)
    layer = Layer(64, registry().resolve("E75h8n16:decay=log_space,post_conv=true").config)
    step = torch.nn.functional.softplus(layer.beta_bias).detach()
    assert bool(((step > 0.999e-3) & (step < 1.001e-1)).all()) and float(step.max() / step.min()) > 10
    rate = layer.A_log.detach().exp()
    assert bool(((rate >= 0.999) & (rate <= 16.001)).all()) and float(rate.max() - rate.min()) > 10
    for tensor in (layer.conv.weight, layer.conv.bias):
        assert 0.45 < float(tensor.abs().max()) <= 0.5
    assert set(layer.no_decay) == {"beta_bias", "A_log"}
