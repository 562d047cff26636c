"""`verify --layer`: the layer's checks anew, the kernel's kept from a receipt while nothing that they are of has changed."""

import msgspec
import pytest

from elmanctl.cli import run
from elmanctl.commands import verify as commands
from elmanctl.plugins.registry import registry
from elmanctl.verify import hashes, receipt
from elmanctl.verify.kept import LAYER, earlier, joined
from elmanctl.verify.record import Proof
from tests.verify.test_receipt import made

CALL = ["verify", "Integrator", "--device", "cpu"]


def edit(path, old, new):
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def kernels(record):
    return {name: value for name, value in record.results.items() if not name.startswith(LAYER)}


def test_a_changed_layer_is_verified_without_its_kernel(spec, folder, capsys):
    assert run([*CALL, "--quick"]) == 0
    proof = Proof(truth_mutants=3, truth_killed=3, mutants=2, killed=2, score=1.0, scope=hashes.kernel_scope(spec))
    before = msgspec.structs.replace(receipt.find(spec, "host"), proof=proof, sanitized=("race float32",))
    receipt.write(spec, before)
    edit(folder / "layer.py", "return self.out(out", "return 1.0 * self.out(out")
    capsys.readouterr()
    assert run([*CALL, "--layer"]) == 0
    printed = capsys.readouterr().out.replace("\n", " ")
    assert f"the kernel's checks are kept, of {before.created}" in printed and "Integrator kernel" not in printed
    after = receipt.find(spec, "host")
    assert after.kernel_checked == before.created and kernels(after) == kernels(before) != {}
    assert (after.proof, after.sanitized, after.dtypes, after.keys) == (
        proof,
        before.sanitized,
        before.dtypes,
        before.keys,
    )
    assert after.quick and {name for name in after.results if name not in kernels(after)} == {"layer truth"}

    edit(folder / "layer.py", '"x": x, "a"', '"x": x.detach(), "a"')
    assert run([*CALL, "--layer"]) == 1
    known = receipt.held(spec)["host"]
    assert known.state == "red" and known.receipt.failed and all(f.startswith(LAYER) for f in known.receipt.failed)
    edit(folder / "layer.py", "x.detach()", "x")
    assert run([*CALL, "--layer"]) == 0
    assert receipt.find(spec, "host").kernel_checked == before.created


@pytest.mark.parametrize("name", ["binding.py", "reference.py", "kernel"])
def test_what_the_kernels_checks_are_of_must_not_have_changed(spec, folder, name, capsys):
    receipt.write(spec, made(spec, scope=hashes.kernel_scope(spec)))
    assert earlier(spec, "host")
    path = folder / (f"{folder.name}.cu.cc" if name == "kernel" else name)
    path.write_text(path.read_text() + " \n")
    assert (
        run([*CALL, "--layer"]) == 2
        and "have changed since its receipt for host. Leave --layer out." in capsys.readouterr().err
    )


def test_nothing_is_kept_of_a_receipt_that_does_not_hold(spec, folder, capsys):
    assert run([*CALL, "--layer"]) == 2 and "it has no receipt for host" in capsys.readouterr().err
    fields = {"scope": hashes.kernel_scope(spec)}
    receipt.write(spec, made(spec, failed=("float32 B3 T2 D48 typical", "layer truth"), **fields))
    assert run([*CALL, "--layer"]) == 2 and "its kernel failed float32 B3 T2 D48 typical" in capsys.readouterr().err
    receipt.write(spec, made(spec))
    assert run([*CALL, "--layer"]) == 2 and "have changed since" in capsys.readouterr().err, (
        "of a receipt that does not say of what"
    )
    path = receipt.write(spec, made(spec, **fields))
    path.write_text(path.read_text().replace('"cases": 3', '"cases": 4'))
    assert run([*CALL, "--layer"]) == 2 and "changed by hand" in capsys.readouterr().err
    assert run(["verify", "gru", "--device", "cpu", "--layer"]) == 2
    assert "no kernel of ours" in capsys.readouterr().err


def test_of_several_one_whose_kernel_must_be_checked_is_verified_whole_and_said(spec, folder, monkeypatch, capsys):
    other = registry().resolve("gru")
    receipt.write(spec, made(spec, scope=hashes.kernel_scope(spec), seed=3))
    monkeypatch.setattr(commands, "every_spec", lambda device: [spec, other])
    asked = []
    monkeypatch.setattr(commands, "verify_one", lambda request, *_: asked.append(request) or ({}, True))
    assert run(["verify", "--all", "--layer", "--device", "cpu"]) == 0
    assert [(r.spec.name, r.kept is None, r.seed) for r in asked] == [("Integrator", False, 3), ("gru", True, 0)]
    assert "gru: it has no kernel of ours" in (said := capsys.readouterr().err) and "It is verified whole." in said


@pytest.mark.parametrize("more", [["--quick"], ["--prove"], ["--seed", "1"], ["--case", "layer truth"], ["--watch"]])
def test_options_of_a_whole_run_are_refused(spec, more, capsys):
    assert (
        run([*CALL, "--layer", *more]) == 2 and "--layer runs the checks of the layer that" in capsys.readouterr().err
    )


def test_a_name_that_kernel_and_layer_share_keeps_its_larger_error(spec):
    old = made(
        spec,
        results={"float32 T2": 0.5, "layer truth": 0.9, "option a=1": 0.2},
        tensors={"y": 0.5, "d_w": 0.9},
        worst=0.9,
        worst_tensor="d_w",
    )
    new = made(spec, results={"layer truth": 0.3}, tensors={"y": 0.1, "d_w": 0.3}, worst=0.3, worst_tensor="d_w")
    both = joined(old, new, ["y"]).sealed()
    assert both.results == {"float32 T2": 0.5, "layer truth": 0.3} and both.tensors == {"y": 0.5, "d_w": 0.3}
    assert (both.worst, both.worst_tensor, both.intact) == (0.5, "y", True)


def test_every_shipped_receipt_says_what_its_kernels_checks_are_of():
    for variant in (v for v in registry().variants().values() if v.has_kernel and v.folder.parent.name == "variants"):
        for target in receipt.recorded(variant):
            for name, record in receipt.read(receipt.places(variant, target)[0]).items():
                assert record.scope == hashes.kernel_scope(receipt.named(variant, name), target), (name, target)
