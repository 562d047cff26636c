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
    before = hashes.parts(gru.variant, "host")
    other = tmp_path / "cudnn.py"
    shutil.copy(hashes.shared_modules(gru.variant)[0], other)
    other.write_text(other.read_text() + "\n")
    monkeypatch.setattr(hashes, "_building_blocks", lambda: {"cudnn": other})
    after = hashes.parts(gru.variant, "host")
    assert {name for name in before if before[name] != after[name]} == {"shared"}
