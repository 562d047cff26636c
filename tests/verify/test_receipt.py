"""Receipts hold for the sources they were given for, and for nothing else."""

import dataclasses
import os
import subprocess
import sys
import time

import msgspec
import pytest

from elmanctl.errors import UserError
from elmanctl.variant import Spec
from elmanctl.verify import receipt
from elmanctl.verify.record import Receipt


def made(spec, **more):
    fields = {
        "variant": "Integrator", "model": spec.name, "target": "host", "source_hash": receipt.source_hash(spec.variant),
        "dtypes": ("float32",), "cases": 3, "worst": 0.5, "worst_tensor": "y", "seconds": 1.0, "created": "2000-01-01",
    }  # fmt: skip
    return Receipt(**fields | more)


def test_a_receipt_is_found_by_configuration_and_target(spec, folder):
    other = Spec(spec.variant, dataclasses.replace(spec.config, bounded=True))
    assert receipt.state(spec, "host") == "none" and receipt.find(spec, "host") is None
    path = receipt.write(spec, made(spec))
    receipt.write(other, made(other, worst=0.25))
    assert path == folder / "receipts" / "host.json"
    assert receipt.find(spec, "host").worst == 0.5 and receipt.find(other, "host").worst == 0.25
    assert receipt.state(spec, "sm_90a") == "none"
    assert receipt.drop(spec, "host") and not receipt.drop(spec, "host")
    assert receipt.state(spec, "host") == "none" and receipt.state(other, "host") == "ok"


@pytest.mark.parametrize("name", ["reference.py", "layer.py", "binding.py", "__init__.py", "kernel"])
def test_any_change_of_the_sources_makes_it_stale(spec, folder, name):
    receipt.write(spec, made(spec))
    path = folder / (f"{folder.name}.cu.cc" if name == "kernel" else name)
    text = path.read_text()
    path.write_text(text + " \n")
    assert receipt.state(spec, "host") == "stale" and receipt.find(spec, "host") is None
    path.write_text(text)
    assert receipt.state(spec, "host") == "ok"


def test_a_shared_header_counts_only_where_it_is_reached(spec, folder, tmp_path, monkeypatch):
    shared = tmp_path / "csrc"
    (shared / "elman").mkdir(parents=True)
    (shared / "elman" / "elman.cuh").write_text("#include <elman/inner.cuh>\n")
    (shared / "elman" / "inner.cuh").write_text("// inner\n")
    (shared / "elman" / "unused.cuh").write_text("// unused\n")
    monkeypatch.setattr(receipt, "csrc_folder", lambda: shared)
    monkeypatch.setattr("elmanctl.toolchain.csrc_folder", lambda: shared)
    before = receipt.source_hash(spec.variant)
    (shared / "elman" / "unused.cuh").write_text("// changed\n")
    (folder / "test_it.py").write_text("# a test\n")
    (folder / "README.md").write_text("words\n")
    assert receipt.source_hash(spec.variant) == before
    (shared / "elman" / "inner.cuh").write_text("// changed\n")
    assert receipt.source_hash(spec.variant) != before


def test_a_quick_receipt_does_not_replace_a_full_one_that_holds(spec, folder):
    receipt.write(spec, made(spec))
    assert receipt.write(spec, made(spec, quick=True)) is None
    assert not receipt.find(spec, "host").quick
    (folder / "reference.py").write_text((folder / "reference.py").read_text() + " \n")
    assert receipt.write(spec, made(spec, quick=True)) is not None
    assert receipt.find(spec, "host").quick
    receipt.write(spec, made(spec))
    assert not receipt.find(spec, "host").quick


def test_a_folder_that_cannot_be_written_sends_it_home(spec, folder, tmp_path, monkeypatch):
    real = os.access
    monkeypatch.setattr(receipt.os, "access", lambda p, mode: not str(p).startswith(str(folder)) and real(p, mode))
    path = receipt.write(spec, made(spec))
    assert path == tmp_path / "home" / "receipts" / folder.name / "host.json"
    assert receipt.find(spec, "host") and not (folder / "receipts").exists()


def test_a_file_that_is_no_receipt_is_named(spec, folder):
    (folder / "receipts").mkdir()
    (folder / "receipts" / "host.json").write_text('{"Integrator": 3}')
    with pytest.raises(UserError, match=r"host.json is no file of receipts.*Delete it"):
        receipt.find(spec, "host")


def test_the_file_is_plain_json_keyed_by_model(spec):
    path = receipt.write(spec, made(spec))
    data = msgspec.json.decode(path.read_bytes())
    assert list(data) == ["Integrator"] and data["Integrator"]["kind"] == "kernel"


def test_hashing_is_fast_and_needs_no_torch(spec):
    started = time.perf_counter()
    for _ in range(5):
        receipt.source_hash(spec.variant)
    assert (time.perf_counter() - started) / 5 < 0.2  # 2 ms on an idle machine
    code = "import sys, elmanctl.verify.receipt, elmanctl.verify.cases; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
