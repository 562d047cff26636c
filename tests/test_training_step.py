"""bench/training_step.py as far as it goes without a GPU: its rows, its children, its table."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from elmanctl.plugins.registry import registry

FILE = Path(__file__).parent.parent / "bench" / "training_step.py"


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("training_step", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CHILD = """
import json, os, sys, time
for row in json.loads(sys.argv[-1]):
    if row["model"] == "crash":
        print("the last words", file=sys.stderr, flush=True)
        os._exit(9)
    if row["model"] == "hang":
        time.sleep(60)
    fatal = row["model"] == "poison"
    found = {"note": "an error"} if fatal else {"params": os.getpid()}
    print("row " + json.dumps(found), flush=True)
    if fatal:
        sys.exit(3)
"""


def test_rows_are_read_and_refused(bench):
    assert bench.parsed("a:b=1@64x2", 32, 512) == bench.Row("a:b=1", 64, 2, 32, 512)
    assert bench.parsed("a@64x2:4x4096", 32, 512) == bench.Row("a", 64, 2, 4, 4096)
    for wrong in ("a", "a@64", "a@64x2:4", "@64x2"):
        with pytest.raises(SystemExit, match="write MODEL@DIMxDEPTH"):
            bench.parsed(wrong, 32, 512)


def test_the_table_s_models_exist(bench):
    for row in (bench.parsed(text, 32, 512) for text in bench.TABLE.read_text().split()):
        registry().resolve(row.model).check(row.dim)


def test_a_row_that_ends_its_process_does_not_end_the_table(bench, tmp_path):
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    rows = [bench.Row(name, 1, 1, 1, 1) for name in ("a", "b", "crash", "c", "poison", "d", "hang", "e")]
    found = list(bench.measured(rows, [sys.executable, str(script)], row_seconds=3, seconds=60))
    assert [row["model"] for row in found] == [row.model for row in rows]
    notes = {row["model"]: row["note"] for row in found if "note" in row}
    assert notes == {
        "crash": "the process ended with code 9: the last words",
        "poison": "an error",
        "hang": "the process ended with code -9: no output",
    }
    pids = {row["model"]: row["params"] for row in found if "params" in row}
    assert pids["a"] == pids["b"] and len({pids[name] for name in "acde"}) == 4, "no process outlives an error"


def test_rows_after_the_time_are_named(bench, tmp_path):
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    rows = [bench.Row(name, 1, 1, 1, 1) for name in "ab"]
    found = list(bench.measured(rows, [sys.executable, str(script)], row_seconds=30, seconds=0))
    assert [row["note"] for row in found] == ["not reached in 0 s"] * 2


def test_kernels_are_told_apart(bench):
    names = {
        "void elman::e::forward<float>": "recurrence",
        "void elemWiseRNNcell<__nv_bfloat16>": "recurrence",
        "nvjet_hsh_128x256": "product",
        "_add_norm_backward": "norm",
        "Memset (Device)": "fill or copy",
        "void at::native::reduce_kernel": "other",
    }
    assert {name: bench.kind_of(name) for name in names} == names


def test_the_table_has_numbers_shares_and_reasons(bench):
    common = {"dim": 64, "depth": 2, "batch": 4, "chunk": 8}
    spent = dict.fromkeys((*bench.KINDS, "other"), 1.0)
    good = common | {
        "on": "H200, torch 2",
        "model": "a",
        "params": 2e6,
        "tokens_per_second": 5e5,
        "ms_per_step": 10.0,
        "peak_gib": 1.5,
    }
    lines = bench.markdown(
        [
            good | {"breakdown_ms": spent, "outside": 0.8},
            good,
            common | {"model": "b", "note": "no | b"},
        ]
    )
    head, rule, full, bare, absent, empty, where = lines.splitlines()
    assert (empty, where) == ("", "H200, torch 2")
    assert len({line.count("|") for line in (head, rule, full, bare, absent)}) == 1
    assert "| a 64x2 | 4 x 8 | 2.0 M | 500 K | 10.00 | 1.00 |" in full and full.endswith("| 80% | 1.50 |")
    assert "no / b" in absent


def test_without_a_gpu_the_reason_is_the_row_s(bench, tmp_path, capsys):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    assert bench.main(["gru@64x1:2x8", "--out", str(tmp_path)]) == 1
    (row,) = json.loads((tmp_path / "training_step.json").read_text())
    assert "note" in row and (row["batch"], row["loss_chunks"]) == (2, 1)
    assert "| gru 64x1 | 2 x 8 |" in capsys.readouterr().out
