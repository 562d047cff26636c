"""`elmanctl receipt`: prints what verify found, and finds out one that was edited."""

import importlib.util
import json
from pathlib import Path

import msgspec
import pytest

from elmanctl.cli import run
from elmanctl.plugins.registry import registry
from elmanctl.verify import receipt

_path = Path(__file__).parent.parent / "verify" / "conftest.py"
_fixtures = importlib.util.spec_from_file_location("receipt_fixtures", _path)
_module = importlib.util.module_from_spec(_fixtures)
_fixtures.loader.exec_module(_module)
folder = _module.folder


@pytest.fixture
def kept(folder, capsys):
    """Return the receipt that a quick run of the integrator left."""
    assert run(["verify", "Integrator", "--device", "cpu", "--quick", "--seed", "5"]) == 0
    capsys.readouterr()
    return receipt.find(registry().resolve("Integrator"), "host")


def call(capsys, *arguments):
    code = run(["receipt", "Integrator", *arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


def resealed(kept, **change):
    receipt.write(registry().resolve("Integrator"), msgspec.structs.replace(kept, **change))


def test_it_prints_what_was_checked_with_what_and_what_was_found(folder, kept, capsys):
    code, out, _ = call(capsys)
    assert code == 0 and "state     green" in out and "seed 5" in out and "quick checks" in out and "intact" in out
    for part in ("kernel", "headers", "reference", "layer", "flags", "policy", "float32", "bfloat16", "g++"):
        assert part in out, part
    assert all(tensor in out for tensor in kept.tensors) and "declared  roundings inside: none" in out
    (data,) = json.loads(call(capsys, "--json")[1])
    assert data["state"] == "green" and data["results"] == kept.results and data["worst"] == max(kept.results.values())
    assert set(data["keys"]) == {"float32", "bfloat16"} and data["cases"] >= len(data["results"])


def test_recheck_runs_the_worst_case_and_one_more_and_they_agree(kept, capsys):
    code, out, _ = call(capsys, "--recheck", "--json")
    (data,) = json.loads(out)
    cases = [c["case"] for c in data["recheck"]]
    assert code == 0 and cases[0] == max(kept.results, key=kept.results.get) and len(cases) in (1, 2)
    assert all(c["ok"] and c["now"] == pytest.approx(c["kept"], abs=1e-3) for c in data["recheck"])


def test_figures_that_were_made_better_and_sealed_again_are_found_out(kept, capsys):
    """Whoever edits and seals anew must still say what a run gives."""
    resealed(
        kept, worst=round(kept.worst / 10, 4), results={k: round(v / 10, 4) for k, v in kept.results.items()},
        tensors={k: round(v / 10, 4) for k, v in kept.tensors.items()},
    )  # fmt: skip
    assert call(capsys)[0] == 0
    code, out, err = call(capsys, "--recheck")
    assert code == 1 and "DOES NOT AGREE" in out and "in the receipt" in err


def test_a_failure_that_was_taken_out_is_found_out(folder, kept, capsys):
    path = folder / f"{folder.name}.cu.cc"
    text = path.read_text()
    path.write_text(text.replace("store(p.d_x + at, carry);", "store(p.d_x + at, carry * acc(1.01));"))
    assert text != path.read_text()
    assert run(["verify", "Integrator", "--device", "cpu", "--quick"]) == 1
    red = receipt.held(registry().resolve("Integrator"))["host"]
    assert red.state == "red" and call(capsys)[0] == 1
    calm = {k: min(v, 0.3) for k, v in red.receipt.results.items()}
    resealed(red.receipt, failed=(), results=calm, tensors={"d_x": 0.3}, worst=0.3)
    assert call(capsys)[0] == 0
    receipts = [call(capsys, "--recheck")[0] for _ in range(1)]
    assert receipts == [1]


def test_one_edited_by_hand_is_red_and_a_stale_one_is_not_run(folder, kept, capsys):
    path = folder / "receipts" / "host.json"
    path.write_text(path.read_text().replace('"seed": 5', '"seed": 6'))
    code, out, err = call(capsys)
    assert code == 1 and "BROKEN" in out and "changed by hand" in err
    resealed(kept)
    (folder / "reference.py").write_text((folder / "reference.py").read_text() + "\n")
    code, out, _ = call(capsys, "--recheck")
    assert code == 0 and "changed since: reference" in out and "nothing to run it against" in out


def test_without_a_receipt_the_answer_says_how_to_get_one(folder, capsys):
    code, _, err = call(capsys)
    assert code == 2 and "Integrator has no receipt. elmanctl verify makes one." in err
