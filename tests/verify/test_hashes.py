"""What a receipt is bound to: hashing is quick and needs no torch, and sees the tool modules that a folder is made of."""

import shutil
import subprocess
import sys
import time

from elmanctl.plugins.registry import registry
from elmanctl.variant import Spec
from elmanctl.verify import hashes


def test_hashing_is_fast_and_needs_no_torch(spec):
    started = time.perf_counter()
    for _ in range(5):
        hashes.source_hash(spec.variant)
    assert (time.perf_counter() - started) / 5 < 0.2  # 2 ms on an idle machine
    code = "import sys, elmanctl.verify.receipt, elmanctl.verify.drawn; assert not {'torch', 'hypothesis'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_tool_module_that_a_folder_is_made_of_makes_it_stale(monkeypatch, tmp_path):
    gru = Spec(registry().variants()["gru"], registry().variants()["gru"].config())
    assert [p.name for p in hashes.shared_modules(gru.variant)] == ["cudnn.py"]
    before = hashes.parts(gru, "host")
    other = tmp_path / "cudnn.py"
    shutil.copy(hashes.shared_modules(gru.variant)[0], other)
    other.write_text(other.read_text() + "\n")
    monkeypatch.setattr(hashes, "_building_blocks", lambda: {"cudnn": other})
    after = hashes.parts(gru, "host")
    assert {name for name in before if before[name] != after[name]} == {"shared"}


def test_a_change_of_the_second_mode_makes_receipts_of_it_stale_and_no_others(monkeypatch, tmp_path):
    kernel, products = (registry().resolve(name) for name in ("E42", "E42:recurrence=cublas"))
    other = tmp_path / "stepwise.py"
    shutil.copy(hashes.second_mode(products)[0], other)
    monkeypatch.setattr(hashes, "_tool", lambda: tmp_path)
    for target in ("host", "sm_90a"):
        before = hashes.parts(products, target), hashes.parts(kernel, target)
        assert before[0] == before[1] | {"stepwise": before[0]["stepwise"]} != before[1]
        other.write_text(other.read_text() + "\n")
        after = hashes.parts(products, target), hashes.parts(kernel, target)
        assert {n for n in before[0] if before[0][n] != after[0][n]} == {"stepwise"} and after[1] == before[1]
