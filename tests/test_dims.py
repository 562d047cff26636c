"""Counts of real models against the specification's figures."""

import pytest

from elmanctl import dims
from elmanctl.plugins.registry import registry
from elmanctl.variant import Spec

# (name, width, depth, parameters at vocabulary 256)
FIGURES = [
    ("E75h4n16", 2048, 20, 97_561_856),
    ("E75h4n24", 2048, 20, 104_116_096),
    ("E75h4n32", 1920, 20, 98_838_400),
    ("E75h8n16", 1920, 20, 98_838_400),
    ("E75h8n24", 1792, 20, 99_131_904),
    ("E75n96:expansion=2", 1408, 20, 104_020_736),
    ("E75pch8n24", 1792, 20, 34_964_224),
    ("E75vech8n24", 1792, 20, 99_131_904),
    ("E76n96:expansion=2", 1408, 20, 104_022_656),
    ("E77n96:expansion=2", 1408, 20, 104_020_736),
    ("E88h32n16", 1536, 20, 64_324_352),
    ("E88h24n24", 1536, 20, 71_942_592),
    ("E88h16n32:use_gate=true", 1536, 20, 79_560_832),
    ("E88h8n32", 1920, 20, 40_160_960),
    ("E88h12n32", 3200, 20, 99_958_880),
    # Published with an unused norm weight of 32 in each layer: 99,605,280.
    ("E88h20n32", 1920, 20, 99_605_280 - 20 * 32),
    ("E88h83n32:use_gate=true", 1920, 17, 436_697_222),
    ("E0:expansion=2", 512, 20, 84_068_864),
    ("pure:expansion=2", 512, 20, 63_076_864),
    ("x_gated:expansion=2", 512, 20, 63_097_344),
    ("hx:expansion=2", 512, 20, 63_097_344),
    ("E70n96:expansion=2", 1408, 20, 98_612_116),
    ("E71n96:expansion=2", 1408, 20, 104_022_656),
    ("E72n96:expansion=2", 1408, 20, 104_024_576),
    ("E72in96:expansion=2", 1408, 20, 104_024_576),
    ("E73n96:expansion=2", 1408, 20, 104_020_736),
    ("E73cpn96:expansion=2", 1408, 20, 104_020_736),
    ("E74n32", 2048, 20, 89_696_256),
    ("E74n48", 2048, 20, 92_317_696),
    ("E74n64", 2048, 20, 94_939_136),
    ("E74n96", 2048, 20, 100_182_016),
    ("E74n64:expansion=2", 1408, 20, 92_304_256),
    ("E74n96:expansion=2", 1408, 20, 98_612_096),
    ("E74n64:state=diagonal", 2048, 20, 94_939_136),
    ("E74n64:projection=tied_kvq", 2048, 20, 94_939_136 - 20 * 2 * 64 * 2048),
    ("E74n64:projection=full", 2048, 20, 94_939_136 + 20 * (64 * 2048 + 64)),
    ("E74v2-ntmn64", 2048, 20, 94_939_136 + 20 * 2 * (64 * 2048 + 64)),
    ("E74v2-ema-inputn64", 2048, 20, 94_939_136 + 20 * 2 * (64 * 2048 + 64)),
    ("E74v2-residualn64", 2048, 20, 94_939_136 + 20 * 64),
    ("E74n64:update=simple", 2048, 20, 94_939_136 + 20),
    ("E74n64:update=simple,state=diagonal", 2048, 20, 94_939_136 + 20 * 64),
    ("E74n64:gate=retain", 2048, 20, 94_939_136 + 20 * 2 * 64),
    # The specification's V is noise and no parameter: rank n less a layer.
    ("E74n64:state=low_rank", 2048, 20, 94_939_136 + 20 * 2 * 4 * 64),
    ("E79:expansion=2", 1408, 20, 95_911_296),
    ("E79nb:expansion=2", 1408, 20, 95_911_296 - 20 * 2 * 64),
    ("E79ib:expansion=2", 1408, 20, 95_911_296 + 20 * 2 * 64 * (2816 - 1)),
    ("E1:expansion=2", 640, 20, 114_890_880),
    ("E1", 1280, 6, 49_496_320),
    ("E2s8:expansion=2", 320, 20, 86_207_200),
    ("E2:expansion=2", 352, 20, 104_289_664),
    ("E2s8:expansion=2,independent=true", 320, 20, 86_207_200 + 20 * 7 * 640 * 640),
    ("E2ds64:expansion=2", 320, 20, 256 * 320 + 20 * (3 * 320 * 640 + 2 * 64 * 640 + 64 + 320) + 320),
    ("E29a:tape=zero", 1024, 6, 25_441_280),
    ("E29c:tape=zero", 1024, 6, 25_465_856),
    ("E29an16", 1024, 6, 25_441_280 + 6 * 16 * 1024),
    ("E33", 1280, 6, 39_665_920),
    ("E33:expansion=2", 640, 20, 98_506_880),
    ("E35", 1280, 6, 39_665_920),
    ("E36", 1280, 6, 39_665_920),
    ("E37", 1280, 6, 29_835_520),
    ("E37v2", 1280, 6, 29_835_520),
    ("E38", 1280, 6, 29_835_520),
    ("E39", 1280, 6, 29_827_840),
    ("E40", 1280, 6, 29_835_520),
    ("E41", 1280, 6, 29_843_200),
    ("E63:expansion=2", 512, 20, 84_068_864),
    ("E63d:expansion=2", 512, 20, 84_068_864),
    ("E63b:expansion=2", 512, 20, 105_060_864),
    ("E63c:expansion=2", 512, 20, 147_003_904),
    ("E66:expansion=2", 640, 20, 114_916_480),
    ("E67lr:expansion=2", 640, 20, 106_724_480),
    ("E4:expansion=1.5,rank=64", 512, 27, 50_596_096),
    ("E4:expansion=2", 512, 17, 49_178_624),
    ("E4:expansion=4", 512, 7, 53_364_736),
    ("E42:expansion=2", 768, 20, 94_615_296),
    ("E42:expansion=2", 640, 20, 65_738_880),
    ("E42", 1536, 6, 42_880_512),
    ("E42", 1280, 6, 29_835_520),
    ("E56:expansion=2", 640, 20, 114_890_880),
    ("E56", 1280, 6, 49_496_320),
    ("E34", 1280, 6, 29_843_200),
    ("diagonal", 1280, 6, 29_835_520 + 6 * 2 * 1280),
    ("E59:expansion=2", 768, 20, 94_615_296 + 20),
    ("E59b:expansion=2", 640, 20, 98_532_480),
    ("E61:expansion=2", 640, 20, 98_532_480),
    ("E61c:expansion=2", 640, 20, 65_738_880),
    ("E62:expansion=2", 640, 20, 98_532_480),
    ("E62b:expansion=2", 640, 20, 98_532_480 + 20 * (1280**2 + 1280)),
    ("E64:expansion=2", 640, 20, 98_532_480),
    ("E65:expansion=2", 640, 20, 98_558_080),
    ("E67:expansion=2", 640, 20, 98_558_080),
    ("E68:expansion=2", 640, 20, 98_583_680),
    ("E68i:expansion=2", 640, 20, 98_583_680),
    # Without the layer norm of their own that the specification's have, as gru and lstm below.
    ("mingru:expansion=2", 640, 20, 49_342_720 - 20 * 640 - 640),
    ("minlstm:expansion=2", 640, 20, 65_726_720 - 20 * 640 - 640),
    ("llama", 640, 20, 101_770_880),
    # Without the layer norm of their own that the specification's GRU and LSTM have: 2n less a layer, n more for LadderLM's.
    ("cudagru", 384, 20, 82_735_872 - 20 * 384 - 384),
    ("cudalstm", 384, 20, 106_344_192 - 20 * 384 - 384),
    ("gru", 384, 20, 82_781_952 - 20 * 384 - 384),
    ("lstm", 384, 20, 106_405_632 - 20 * 384 - 384),
    ("rnn", 1536, 6, 57_045_504),
    ("mamba2:d_state=128", 896, 20, 101_917_712),
    ("fla-gdn:expansion=2", 768, 20, 95_020_016),
    ("fla-gdn:expansion=1", 768, 20, 59_566_576),
]

# The published table at 100M parameters and depth 20; its E88 rows have the output gate.
STANDARD = {
    "mamba2": 896,
    "fla-gdn": 768,
    "E75h4n16": 2048,
    "E75h4n24": 2048,
    "E75h4n32": 1920,
    "E75h4n48": 1792,
    "E75h8n16": 1920,
    "E75h8n24": 1792,
    "E75h8n32": 1664,
    "E75h6n24": 1920,
    "E75h6n32": 1792,
    "E88h4n32_gate": 7552,
    "E88h6n32_gate": 5120,
    "E88h8n32_gate": 3840,
    "E88h12n32_gate": 2560,
    "E88h16n32_gate": 1920,
    "E88h20n32_gate": 1536,
    "E88h24n24_gate": 1664,
    "E88h32n16_gate": 1920,
    "E88h8n48_gate": 2560,
    "E88h8n64_gate": 1920,
}


def resolve(name: str) -> Spec:
    spec = registry().resolve(name)
    if missing := spec.variant.missing():
        pytest.skip(f"needs {', '.join(missing)}")
    return spec


@pytest.mark.parametrize(("name", "dim", "depth", "params"), FIGURES, ids=[f"{n}-{d}x{L}" for n, d, L, _ in FIGURES])
def test_counts_are_the_published_ones(name, dim, depth, params):
    assert dims.count(resolve(name), dim, depth) == params


@pytest.mark.parametrize("name", ["E42", "E88h2n8:use_conv=true", "E75h2n8", "gru", "lstm", "llama"])
def test_the_meta_count_is_that_of_a_model_in_memory(name):
    from elmanctl.model import LadderLM

    spec = resolve(name)
    model = LadderLM(spec, 64, 3)
    assert dims.count(spec, 64, 3) == sum(p.numel() for p in model.parameters())
    assert all(p.device.type == "cpu" for p in model.parameters())


def test_a_deep_model_is_counted_without_building_every_layer(monkeypatch):
    built, layers = [], Spec.layers
    monkeypatch.setattr(Spec, "layers", lambda spec, dim: built.append(dim) or layers(spec, dim))
    spec = resolve("E42")
    deepest, two, one = (dims.size(spec, 48, depth) for depth in (dims.DEEPEST, 2, 1))
    assert deepest.params - one.params == (dims.DEEPEST - 1) * (two.params - one.params)
    assert deepest.state_bytes == dims.DEEPEST * one.state_bytes and len(built) < 20


def test_state_bytes_are_those_of_one_sequence_over_all_layers():
    assert dims.size(resolve("E88h4n16"), 128, 3).state_bytes == 3 * 4 * 16 * 16 * 4


def test_the_standard_table_is_found():
    from elmanctl import suite

    found = {s.row.label: s for s in suite.sized(suite.load("standard"))}
    assert set(STANDARD) <= set(found)
    sized = {label: s.size.dim for label, s in found.items() if s.size}
    assert {label: dim for label, dim in sized.items() if label in STANDARD} == {
        label: dim for label, dim in STANDARD.items() if label in sized
    }
    assert all(found[label].problem for label in set(STANDARD) - set(sized))
