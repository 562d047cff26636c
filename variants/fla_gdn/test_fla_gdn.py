"""What the contract tests cannot know: exact counts, what is not decayed, and the two refusals."""

import pytest
import torch
from elmanctl_variants.fla_gdn import variant

from elmanctl.errors import UserError
from elmanctl.model import LadderLM, parameter_count
from elmanctl.variant import Spec, Variant

needs_package = pytest.mark.skipif(bool(variant.missing()), reason=f"absent: {', '.join(variant.missing())}")


@needs_package
@pytest.mark.parametrize(
    ("dim", "options", "params"),
    [
        (768, {}, 95_020_016),
        (768, {"expansion": 1}, 59_566_576),
        (256, {"head_dim": 64, "expansion": 3, "allow_neg_eigval": True}, None),
    ],
)
def test_counts(dim, options, params):
    spec = Spec(variant, variant.config(**options))
    spec.check(dim)
    with torch.device("meta"):
        model = LadderLM(spec, dim, 20)
    c = spec.config
    heads = dim // c.head_dim
    keys, values = heads * c.head_dim, heads * c.head_dim * c.expansion
    one = dim * (2 * keys + 3 * values + 2 * heads) + 4 * (2 * keys + values) + 2 * heads + c.head_dim * c.expansion
    assert parameter_count(model) == 256 * dim + 20 * (one + dim) + dim
    assert params in (None, parameter_count(model))


@needs_package
def test_options_reach_the_package():
    (layer,) = Spec(variant, variant.config(allow_neg_eigval=True)).layers(128)
    assert layer.mixer.allow_neg_eigval and layer.mixer.mode == "chunk"


@needs_package
def test_no_decay_is_what_the_package_marks():
    (layer,) = Spec(variant, variant.config()).layers(128)
    marked = {name for name, p in layer.named_parameters() if getattr(p, "_no_weight_decay", False)}
    assert layer.no_decay == marked


@needs_package
def test_a_tensor_off_the_gpu_is_refused():
    (layer,) = Spec(variant, variant.config()).layers(128)
    with pytest.raises(UserError, match="no code for cpu"):
        layer(torch.zeros(1, 2, 128))


def test_an_absent_package_is_named_with_its_install_line(monkeypatch):
    monkeypatch.setattr(Variant, "missing", lambda self: ["fla"])
    with pytest.raises(UserError, match=r"fla-gdn needs fla,.*pip install 'elmanctl\[baselines\]'"):
        Spec(variant, variant.config()).layers(128)
