"""What `bench --kernels` shows: its table and pictures, and the models that a name stands for."""

import xml.etree.ElementTree as ElementTree

import msgspec
import pytest
import torch

from elmanctl.commands import bench_kernels
from elmanctl.errors import UserError
from elmanctl.kernelbench import plot, run, shapes, show
from elmanctl.kernelbench.run import Row
from elmanctl.plugins.registry import registry

CPU = torch.device("cpu")


def spec(name: str):
    return registry().resolve(name)


@pytest.fixture
def record():
    common = {"model": "X<1", "dim": 64, "B": 2}
    rows = [
        Row(
            **common,
            contender=run.OWN,
            T=t,
            forward=(t, t, t),
            both=(3.0 * t, 2.0 * t, 4.0 * t),
            gb_s=100,
            receipt="abc",
        )
        for t in (8, 16)
    ]
    rows += [Row(**common, contender="other", T=t, forward=(2 * t, t, t), both=(6.0 * t, t, t)) for t in (8, 16)]
    rows.append(Row(**common, contender="absent", T=8, note="not installed"))
    return show.Record(
        device_name="a GPU",
        started="2026-01-01",
        base="",
        ceilings={"copy_gb_s": 400.0, "bf16_tflop_s": 800.0},
        versions={"torch": "2"},
        rows=rows,
    )


def test_the_table_has_times_ratios_shares_and_reasons(record):
    own, _, other, _, absent = show.cells(record)
    assert own[5:9] == ["8 (8-8)", "1.000", "24 (16-32)", "3.000"]
    assert own[9] == "" and own[10] == "100 (25%)" and own[12] == "receipt abc"
    assert other[9] == "2.00" and absent[5:] == [*[""] * 7, "not installed"]
    page = show.markdown(record)
    assert "| X<1 | other | 2 | 8 | 64 |" in page and "400 GB/s" in page
    record.rows[-1] = msgspec.structs.replace(record.rows[-1], note="a|b\nc")
    assert "| a\\|b c |" in show.markdown(record)
    assert msgspec.json.decode(msgspec.json.encode(record), type=show.Record) == record


def test_pictures_are_drawn_along_each_size_with_the_others_fixed():
    def row(contender, B, T, dim, us):
        return Row(model="X", contender=contender, B=B, T=T, dim=dim, forward=(T, T, T), both=(us * T, 0, 0))

    sizes = [(b, t, d) for b in (8, 32) for t in (512, 8192) for d in (64, 128)]
    found = run.lines([row("kernel", b, t, d, d / 64 + b) for b, t, d in sizes], "X", shapes.Shape(32, 512, 64))
    assert set(found) == {
        "B_T=512_dim=64", "B_T=512_dim=128", "dim_B=32_T=512", "dim_B=32_T=8192", "T_B=32_dim=64", "T_B=32_dim=128",
    }  # fmt: skip
    assert found["B_T=512_dim=128"] == ("B", "T=512 dim=128", {"kernel": [(8, 10.0), (32, 34.0)]})
    held = run.lines([row("kernel", 64, 512, 64, 1), row("kernel", 1, 32768, 64, 2), row("other", 1, 32768, 64, 2)], "X",
                     shapes.Shape(32, 512, 64))  # fmt: skip
    assert held == {"T_BT=32768_dim=64": ("T", "BT=32768 dim=64", {"kernel": [(512, 1.0), (32768, 2.0)]})}


def test_the_picture_has_a_line_for_each_contender(record, tmp_path):
    lines = {"kernel": [(8, 3.0), (16, 3.0)], "other": [(8, 6.0), (16, 7.0)]}
    tree = ElementTree.fromstring(plot.svg("X<1", "T", lines))
    drawn = [e for e in tree.iter() if e.tag.endswith("polyline")]
    assert len(drawn) == 2 and any("X<1" in (e.text or "") for e in tree.iter())
    (low, _), (high, _) = ([float(p.split(",")[1]) for p in e.get("points").split()] for e in drawn)
    assert low > high, "slower is higher up"
    files = bench_kernels.write(record, tmp_path, {"X:1": {"T_B=2": ("T", "B=2", lines)}, "Y": {}})
    assert (
        sorted(f.name for f in files)
        == sorted(f.name for f in tmp_path.iterdir())
        == ["X_1_T_B=2.svg", "kernels.json", "kernels.md"]
    )


def test_names_stand_for_models_suites_or_all():
    assert [s.name for s in bench_kernels.models("E88h32n16")] == ["E88h32n16"]
    assert "E88h8n32" in [s.name for s in bench_kernels.models("e88_vs_baselines")]
    everything = bench_kernels.models(None)
    assert {"E1", "E42"} <= {s.variant.name for s in everything} and all(s.variant.has_kernel for s in everything)
    with pytest.raises(UserError, match="no kernel of its own"):
        bench_kernels.models("gru")
