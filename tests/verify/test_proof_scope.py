"""A proof holds while what it is of stays: kernel, headers, binding and reference, whatever becomes of the layer."""

import msgspec
import pytest

from elmanctl.verify import hashes, receipt
from elmanctl.verify.record import Proof
from tests.verify.test_receipt import made


@pytest.mark.parametrize("name", ["layer.py", "binding.py", "reference.py", "kernel"])
def test_a_proof_outlives_a_change_of_the_layer_alone(spec, folder, name):
    shown = {"proof": Proof(truth_mutants=3, truth_killed=3, mutants=2, killed=2, score=1.0), "sanitized": ("race",)}
    shown["proof"] = msgspec.structs.replace(shown["proof"], scope=hashes.kernel_scope(spec))
    receipt.write(spec, made(spec, **shown))
    path = folder / (f"{folder.name}.cu.cc" if name == "kernel" else name)
    path.write_text(path.read_text() + " \n")
    assert receipt.state(spec, "host") == "stale"
    receipt.write(spec, made(spec))
    found = receipt.find(spec, "host")
    assert (found.proof, found.sanitized) == ((shown["proof"], ("race",)) if name == "layer.py" else (None, ()))


def test_a_proof_that_failed_and_a_receipt_changed_by_hand_are_not_carried_on_as_if_they_held(spec, folder):
    failed = Proof(truth_mutants=3, truth_killed=2, mutants=2, killed=2, score=1.0, scope=hashes.kernel_scope(spec))
    path = receipt.write(spec, made(spec, proof=failed, failed=receipt.UNPROVEN))
    layer = folder / "layer.py"
    layer.write_text(layer.read_text() + " \n")
    receipt.write(spec, made(spec))
    assert receipt.state(spec, "host") == "red" and receipt.held(spec)["host"].receipt.proof == failed
    path.write_text(path.read_text().replace('"truth_killed": 2', '"truth_killed": 3'))
    layer.write_text(layer.read_text() + " \n")
    receipt.write(spec, made(spec))
    assert receipt.find(spec, "host").proof is None


def test_a_layer_that_another_file_imports_is_part_of_what_a_proof_is_of(spec, folder):
    layer, reference, scopes = folder / "layer.py", folder / "reference.py", []
    for line in ("", "from .layer import x\n", "from . import layer\n", "import variants.a.layer as b\n"):
        text = reference.read_text()
        reference.write_text(line + text)
        scopes.append(hashes.kernel_scope(spec))
        layer.write_text(layer.read_text() + " \n")
        assert (hashes.kernel_scope(spec) == scopes[-1]) == (not line), line
        reference.write_text(text)
