"""E88's published names and counts."""

import dataclasses

import pytest
import torch

from elmanctl.errors import UserError
from elmanctl.plugins.registry import registry

from .layer import Layer

GATED = {"use_gate": True, "gate_activation": "sigmoid"}
SHELL = {"use_conv": True, "use_output_norm": True, **GATED}
NORM = {"use_output_norm": True, **GATED}
FLA = {"use_gate": True, "use_conv": True, "use_output_norm": True}


def h(n_heads, n_state=32, **more):
    return {"n_heads": n_heads, "n_state": n_state, **more}


# Every name, with what differs from the defaults (8 heads, n=32, stripped).
NAMES = {
    "E88": {},
    "E88h12": h(12),
    "E88h8n32": {},
    "E88s": {},
    "E88sh8": {},
    "E88sh16n32": h(16),
    "E88sh8n96": h(8, 96),
    "E88t": {"tie_kv": True},
    "E88th8n64": h(8, 64, tie_kv=True),
    "E88th16n32": h(16, tie_kv=True),
    "E88_h8n32": {},
    "E88_h24n24": h(24, 24),
    "E88_h32n16": h(32, 16),
    "E88_h64n32": h(64),
    "E88_h512n32": h(512),
    "E88_h81n128": h(81, 128),
    "E88_h32n72": h(32, 72),
    "E88_h24n80": h(24, 80),
    "E88_h64n80": h(64, 80),
    "E88_h8n32_500m": {},
    "E88_h8n64_500m": h(8, 64),
    "E88_h8n48_scaled": h(8, 48),
    "E88_h8n56_scaled": h(8, 56),
    "E88_h16n32_gate": h(16, **GATED),
    "E88_n16": h(128, 16),
    "E88_n24": h(85, 24),
    "E88_n32": h(64),
    "E88_n40": h(51, 40),
    "E88_n48": h(42, 48),
    "E88_b56n32": h(56),
    "E88_b60n32": h(60),
    "E88_b64n32": h(64),
    "E88_b40n48": h(40, 48),
    "E88_b44n48": h(44, 48),
    "E88_b28n64": h(28, 64),
    "E88_b32n64": h(32, 64),
    "E88_dim1536": h(48),
    "E88_dim1792": h(56),
    "E88_dim2048": h(64),
    "E88_dim2304": h(72),
    "E88_dim2560": h(80),
    "E88_dim2816": h(88),
    "E88_dim3072": h(96),
    "E88_100M": h(32),
    "E88_200M": h(40),
    "E88_300M": h(48),
    "E88_500M": h(64),
    "E88_750M": h(72),
    "E88_1B": h(80),
    "E88f_h32n16": h(32, 16),
    "E88f_h24n24": h(24, 24),
    "E88f_h4": h(4),
    "E88f_h6": h(6),
    "E88f_h4n64": h(4, 64),
    "E88d_h12": h(12),
    "E88d_h20": h(20),
    "E88e_h8_75m": {},
    "E88e_h10_75m": h(10),
    "E88e_h12_75m": h(12),
    "E88e_h16_48m": h(16),
    "E88e_h12_linear": h(12, linear_state=True),
    "E88e_h8": {},
    "E88c_h32n16": h(32, 16, **GATED),
    "E88c_h24n24": h(24, 24, **GATED),
    "E88c_h8n64": h(8, 64, **GATED),
    "E88c_nogate": h(16),
    "E88c_simpledecay": h(16, decay="simple", **GATED),
    "E88g_h64n8": h(64, 8),
    "E88g_h128n8": h(128, 8),
    "E88g_h256n8": h(256, 8),
    "E88g_h16n16": h(16, 16),
    "E88g_h4n128": h(4, 128),
    "E88a_noconv": h(16, **NORM),
    "E88a_linear": h(16, linear_state=True, **SHELL),
    "E88a_nogate": h(16, use_conv=True, use_output_norm=True),
    "E88a_simpledecay": h(16, decay="simple", **SHELL),
    "E88a_noconv_linear": h(16, linear_state=True, **NORM),
    "E88a_noconv_nogate": h(16, use_output_norm=True),
    "E88a_minimal": h(16, use_output_norm=True, decay="simple"),
    "E88b_nosilu": h(16, use_silu=False, **NORM),
    "E88b_nol2": h(16, use_l2_norm=False, **NORM),
    "E88b_nosilu_nol2": h(16, use_silu=False, use_l2_norm=False, **NORM),
    "E88b_nonorm": h(16, **GATED),
    "E88b_nogate_nonorm": h(16),
    "E88d_tiekv": h(16, tie_kv=True),
    "E88d_linear": h(16, linear_state=True),
    "E88d_simpledecay": h(16, decay="simple"),
    "E88d_tiekv_linear": h(16, tie_kv=True, linear_state=True),
    "E88h_concat": {},
    "E88h_wsum": {"head_mix": "weighted_sum"},
    "E88h_perhead": {"head_mix": "per_head"},
    "E88h_inputw": {"head_mix": "input_weighted"},
    "E88h_sum": {"head_mix": "sum"},
    "E88h_h32n32": h(32),
    "E88_gated_sigmoid": h(56, **GATED),
    "E88_gated_silu": h(56, use_gate=True),
    "E88_conv_silu": h(56, **FLA),
    "E88_full_fla": h(56, **FLA),
}


@pytest.mark.parametrize("name", NAMES)
def test_every_published_name_resolves_to_its_configuration(name):
    spec = registry().resolve(name)
    assert spec.variant.name == "E88"
    assert spec.config == dataclasses.replace(registry().resolve("E88").config, **NAMES[name])
    spec.check()
    assert registry().resolve(spec.name).config == spec.config


def test_every_preset_is_tested():
    for head in registry().resolve("E88").variant.presets:
        assert any(name.startswith(head) for name in NAMES), head


def test_a_pinned_option_cannot_be_overridden():
    with pytest.raises(UserError, match="use_gate"):
        registry().resolve("E88b_nonorm:use_gate=false")


COUNTS = [
    ("E88f_h32n16", 1536, 64_324_352),
    ("E88f_h24n24", 1536, 71_942_592),
    ("E88b_nonorm", 1536, 79_560_832),
    ("E88e_h8_75m", 1920, 40_160_960),
]
# Published in millions to one decimal.
ROUNDED = [
    ("E88f_h32n16", 1792, 75.0),
    ("E88f_h24n24", 1728, 80.9),
    ("E88e_h8_75m", 2176, 45.5),
    ("E88b_nonorm", 1792, 92.8),
    ("E88d_h12", 1664, 52.0),
    ("E88d_h12", 1536, 48.0),
    ("E88d_h20", 1536, 79.7),
    ("E88d_h20", 1920, 99.6),
    ("E88f_h4", 2176, 23.1),
    ("E88f_h4", 2560, 27.1),
    ("E88f_h6", 2048, 32.3),
    ("E88f_h6", 2304, 36.3),
    ("E88c_h8n64", 2432, 125.6),
]


def language_model_count(name, dim, depth=20):
    with torch.device("meta"):
        layer = Layer(dim, registry().resolve(name).config)
    return 256 * dim + depth * (sum(p.numel() for p in layer.parameters()) + dim) + dim


@pytest.mark.parametrize("name, dim, count", COUNTS)
def test_published_counts(name, dim, count):
    assert language_model_count(name, dim) == count


@pytest.mark.parametrize("name, dim, millions", ROUNDED)
def test_published_rounded_counts(name, dim, millions):
    assert round(language_model_count(name, dim) / 1e6, 1) == millions


def layer_count(c, D):
    """Parameters of a layer from its options, added up term by term."""
    H, n, m = c.n_heads, c.n_state, round(c.n_state * c.expansion)
    values = 0 if c.tie_kv else H * m
    mixed = {"concat": H * m * D, "per_head": H * m * D, "weighted_sum": H + m * D, "input_weighted": H * D + m * D}
    return (
        (2 * H * n + values) * D
        + {"mamba": H * D + 2 * H, "simple": H * D, "constant": H, "none": 0}[c.decay]
        + c.use_conv * 4 * (2 * H * n + values)
        + c.use_gate * H * m * D
        + c.use_write_gate * H * D
        + c.use_output_norm * m
        + c.use_value_residual * H * m
        + mixed.get(c.head_mix, m * D)
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_count_of_every_name_is_that_of_its_options(name):
    config = registry().resolve(name).config
    assert language_model_count(name, 768, depth=3) == 256 * 768 + 3 * (layer_count(config, 768) + 768) + 768


def test_count_of_the_480m_search_result():
    assert language_model_count("E88h83n32:use_gate=true", 1920, depth=17) == 436_697_222
