"""What the contract tests cannot know of E88: what each option does to the layer, and the rules."""

import itertools

import pytest
import torch

from elmanctl.errors import UserError
from elmanctl.plugins.registry import registry
from elmanctl.testing import check_agreement, check_pieces, check_refusal

from . import SIZES, STATE_LIMIT, VALUE_LIMIT
from .layer import Layer

# Each option, away from the default, with what it adds to the parameters at H=2, n=8, dim=32 (m=8 unless stated).
H, N, D = 2, 8, 32
OPTIONS = {
    "expansion=2": H * N * D + D * H * N,
    "use_conv=true": 4 * 3 * H * N,
    "use_silu=false": 0,
    "use_l2_norm=false": 0,
    "decay=simple": -2 * H,
    "decay=constant": H - H * D - 2 * H,
    "decay=none": -H * D - 2 * H,
    "use_write_gate=true": H * D,
    "linear_state=true": 0,
    "use_value_residual=true": H * N,
    "use_output_norm=true": N,
    "use_gate=true": H * N * D,
    "use_gate=true,gate_activation=sigmoid": H * N * D,
    "use_gate=true,use_output_norm=true": H * N * D + N,
    "tie_kv=true": -H * N * D,
    "tie_kv=true,use_conv=true,use_value_residual=true": -H * N * D + 4 * 2 * H * N + H * N,
    "head_mix=per_head": 0,
    "head_mix=weighted_sum": H - N * D,
    "head_mix=input_weighted": H * D - N * D,
    "head_mix=sum": -N * D,
}


def made(options):
    spec = registry().resolve(f"E88h{H}n{N}:{options}" if options else f"E88h{H}n{N}")
    torch.manual_seed(0)
    return Layer(D, spec.config).double()


def count(layer):
    return sum(p.numel() for p in layer.parameters())


@pytest.mark.parametrize("options", OPTIONS)
def test_each_option_counts_lives_and_agrees_between_kernel_and_reference(options):
    layer = made(options)
    assert count(layer) - count(made("")) == OPTIONS[options]
    truth = check_agreement(layer, torch.randn(2, 5, D, dtype=torch.float64), cut=2)
    for name, _ in layer.named_parameters():
        value = truth[f"d_{name}"]
        assert bool(value.isfinite().all()) and float(value.abs().max()) > 0, name


def test_each_option_changes_the_function():
    x = torch.randn(1, 6, D, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def output(options):
        layer = made(options)
        for p in layer.parameters():  # the same value wherever a parameter exists, so that only the function differs
            torch.nn.init.constant_(p, 0.3)
            p.data += 0.2 * torch.sin(torch.arange(p.numel(), dtype=p.dtype)).view(p.shape)
        return layer(x)[0]

    seen = [output("")]
    for options in OPTIONS:
        if options not in ("head_mix=per_head",):  # the same function as concat, in another layout
            y = output(options)
            assert all(not torch.allclose(y, other, rtol=1e-6) for other in seen), options
            seen.append(y)


def test_any_two_options_live_together_or_are_refused_by_name():
    """In the reference; which of them reach the kernel, verify's liveness check and the pairs in README.md have shown."""
    x, refused = torch.randn(1, 3, D, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), []
    single = [option for option in OPTIONS if "," not in option] + ["use_gate=true,gate_activation=sigmoid"]
    for one, two in itertools.combinations(single, 2):
        if one.split("=")[0] == two.split("=")[0]:
            continue
        try:
            spec = registry().resolve(f"E88h{H}n{N}:{one},{two}")
            spec.check()
        except UserError as error:
            refused.append((one, two))
            assert all(option.split("=")[0] in str(error) for option in (one, two)), error
            continue
        torch.manual_seed(0)
        layer = Layer(D, spec.config).double()
        y, state = layer(x)
        sum((o * torch.randn_like(o)).sum() for o in (y, *state.values())).backward()
        dead = [n for n, p in layer.named_parameters() if not (p.grad.isfinite().all() and p.grad.any())]
        assert not dead, spec.name
    assert refused == [("expansion=2", "tie_kv=true")]


def test_per_head_is_concat_in_another_layout():
    concat, per_head = made(""), made("head_mix=per_head")
    per_head.load_state_dict(concat.state_dict() | {"W_out": concat.W_out.detach().view(D, H, N).transpose(0, 1)})
    x = torch.randn(1, 4, D, dtype=torch.float64)
    assert torch.allclose(concat(x)[0], per_head(x)[0], rtol=1e-12)


@pytest.mark.parametrize(
    "options", ["use_conv=true", "use_conv=true,tie_kv=true,use_gate=true,use_value_residual=true"]
)
def test_a_split_sequence_equals_the_whole(options):
    check_pieces(made(options))


@pytest.mark.parametrize(
    "name, texts",
    [
        ("E88h8n20", ("n_state=20 is not a multiple of 8", "Nearest: 16, 24.")),
        ("E88h8n104", ("n_state=104", "Nearest: 96, 128.", "registers hold")),
        ("E88h8n16:expansion=1.3", ("20.8 wide", "Nearest: 1, 1.5")),
        ("E88h8n48:expansion=1.3", ("62.4 wide", "Nearest: 1.166667, 1.333333")),
        ("E88h1n32:head_mix=weighted_sum", ("with one head", "head_mix=concat", "always 1")),
        ("E88h1n32:head_mix=input_weighted", ("with one head", "head_mix=concat", "always 1")),
        ("E88h8n128:expansion=2", ("256 x 128", "Largest: 1")),
        ("E88h8n16:expansion=32", ("512 x 16", "Largest: 16")),
        ("E88h8n32:tie_kv=true,expansion=2", ("tie_kv=true with expansion=2", "expansion=1")),
        ("E88h8n32:gate_activation=sigmoid", ("without a gate", "use_gate=true", "no effect")),
    ],
)
def test_rules_name_the_value_the_reason_and_the_way_out(name, texts):
    check_refusal(name, None, texts)


def test_every_value_width_can_be_asked_for_as_the_rules_name_it():
    for n in SIZES:
        for m in range(8, min(VALUE_LIMIT, STATE_LIMIT // n) + 1, 8):
            spec = registry().resolve(f"E88h2n{n}", {"expansion": f"{m / n:.7g}"})
            assert spec.config.n_v == m
            spec.check()


def test_initialisation():
    torch.manual_seed(0)
    layer = Layer(256, registry().resolve("E88h16n16:use_gate=true").config)
    for weight, rows in ((layer.W_qkv, 3 * 256), (layer.W_gate, 256), (layer.W_out, 256), (layer.W_decay, 16)):
        bound = (6 / (256 + rows)) ** 0.5
        assert 0.97 * bound < weight.abs().max() <= bound
    decay = torch.nn.functional.softplus(layer.dt_bias)
    assert bool(((decay > 0.999e-3) & (decay < 1.001e-1)).all()) and bool((layer.A_log <= 16.0).all())
    assert {"A_log", "dt_bias"} <= set(layer.no_decay)
