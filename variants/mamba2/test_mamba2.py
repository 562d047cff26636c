"""What the contract tests cannot know: exact counts, what is not decayed, and the two refusals."""

import pytest
import torch
from elmanctl_variants.mamba2 import variant

from elmanctl.errors import UserError
from elmanctl.model import LadderLM, parameter_count
from elmanctl.variant import Spec, Variant

needs_package = pytest.mark.skipif(bool(variant.missing()), reason=f"absent: {', '.join(variant.missing())}")


@needs_package
@pytest.mark.parametrize(
    ("dim", "options", "params"),
    [
        (896, {}, 101_917_712),
        (896, {"d_state": 64}, 99_611_152),
        (256, {"expand": 3, "headdim": 32, "d_conv": 3}, None),
    ],
)
def test_counts(dim, options, params):
    spec = Spec(variant, variant.config(**options))
    spec.check(dim)
    with torch.device("meta"):
        model = LadderLM(spec, dim, 20)
    c = spec.config
    inner = c.expand * dim
    heads, channels = inner // c.headdim, inner + 2 * c.d_state
    one = dim * (3 * inner + 2 * c.d_state + heads) + (c.d_conv + 1) * channels + 3 * heads + inner
    assert parameter_count(model) == 256 * dim + 20 * (one + dim) + dim
    assert params in (None, parameter_count(model))


@needs_package
def test_no_decay_is_what_the_package_marks():
    (layer,) = Spec(variant, variant.config()).layers(64)
    marked = {name for name, p in layer.named_parameters() if getattr(p, "_no_weight_decay", False)}
    assert layer.no_decay == marked


@needs_package
def test_a_tensor_off_the_gpu_is_refused():
    (layer,) = Spec(variant, variant.config()).layers(64)
    with pytest.raises(UserError, match="no code for cpu"):
        layer(torch.zeros(1, 2, 64))


def test_an_absent_package_is_named_with_its_install_line(monkeypatch):
    monkeypatch.setattr(Variant, "missing", lambda self: ["causal_conv1d"])
    with pytest.raises(UserError, match=r"mamba2 needs causal_conv1d.*pip install 'elmanctl\[baselines\]'"):
        Spec(variant, variant.config()).layers(64)


def test_heads_divide_the_inner_width():
    spec = Spec(variant, variant.config(headdim=48))
    spec.check(384)
    with pytest.raises(UserError, match="inner width of 256, not a multiple of headdim=48"):
        spec.check(128)
