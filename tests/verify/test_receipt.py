"""Receipts hold for the sources they were given for, and for nothing else."""

import dataclasses
import json
import os
import re
import shutil

import msgspec
import pytest

from elmanctl import toolchain
from elmanctl.commands.verify import keep
from elmanctl.plugins.registry import registry
from elmanctl.toolchain import csrc_folder
from elmanctl.variant import Spec
from elmanctl.verify import hashes, policy, receipt, session
from elmanctl.verify.plan import Request
from elmanctl.verify.record import Proof, Receipt
from elmanctl.verify.run import Check


def made(spec, **more):
    fields = {
        "variant": "Integrator", "model": spec.name, "target": "host", "source_hash": hashes.source_hash(spec.variant),
        "dtypes": ("float32",), "cases": 3, "worst": 0.5, "worst_tensor": "y", "seconds": 1.0, "created": "2000-01-01",
        "parts": hashes.parts(spec, "host"),
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
    receipt.write(spec, made(spec, failed=("float32 T2",)))
    assert receipt.state(spec, "host") == "red" and receipt.state(other, "host") == "green"
    assert receipt.find(spec, "host") is None and receipt.find(other, "host")
    receipt.write(spec, made(spec, quick=True))
    assert receipt.state(spec, "host") == "green"


@pytest.mark.parametrize("name", ["reference.py", "layer.py", "binding.py", "__init__.py", "kernel"])
def test_any_change_of_the_sources_makes_it_stale(spec, folder, name):
    receipt.write(spec, made(spec))
    path = folder / (f"{folder.name}.cu.cc" if name == "kernel" else name)
    text = path.read_text()
    path.write_text(text + " \n")
    assert receipt.state(spec, "host") == "stale" and receipt.find(spec, "host") is None
    part = {"reference.py": "reference", "kernel": "kernel"}.get(name, "layer")
    assert receipt.held(spec)["host"].why == f"changed since: {part}"
    path.write_text(text)
    assert receipt.state(spec, "host") == "green"


KERNELS = [v for v in registry().variants().values() if v.has_kernel]


@pytest.fixture
def shared(tmp_path, monkeypatch):
    """Return a copy of the shared headers that the registry's variants use in this test."""
    copy = tmp_path / "csrc_common"
    shutil.copytree(csrc_folder(), copy)
    monkeypatch.setattr(hashes, "csrc_folder", lambda: copy)
    monkeypatch.setattr(toolchain, "csrc_folder", lambda: copy)
    return copy


def test_changing_a_shared_header_makes_exactly_those_receipts_stale_that_reach_it(shared, tmp_path, monkeypatch):
    monkeypatch.setattr(receipt, "places", lambda v, t: (tmp_path / v.name / f"{t}.json", tmp_path / "no" / "such"))
    specs = {v.name: Spec(v, v.config()) for v in KERNELS}
    for spec in specs.values():
        receipt.write(spec, made(spec, variant=spec.variant.name))
    reaches = {n: {p.resolve() for p in toolchain.sources(s.variant.folder)} for n, s in specs.items()}
    assert {receipt.state(s, "host") for s in specs.values()} == {"green"}
    split = 0
    for header in sorted(p.resolve() for p in shared.rglob("*.cuh")):
        text = header.read_text()
        header.write_text(text + "// changed\n")
        stale = {n for n, s in specs.items() if receipt.state(s, "host") == "stale"}
        # What the host's runtime is made of is linked into every host build.
        runtime = header in {p.resolve() for p in toolchain.runtime_sources()}
        assert stale == (set(specs) if runtime else {n for n in specs if header in reaches[n]}), header.name
        header.write_text(text)
        split += 0 < len(stale) < len(specs)
    assert split >= 2 and {receipt.state(s, "host") for s in specs.values()} == {"green"}


def test_flags_and_the_rule_itself_are_vouched_for(spec, monkeypatch):
    receipt.write(spec, made(spec))
    for name, where, value in (("FACTOR", policy, 3.0), ("HOST_FLAGS", toolchain, ("-O0",))):
        with monkeypatch.context() as changed:
            changed.setattr(where, name, value)
            assert receipt.state(spec, "host") == "stale", name
    assert receipt.state(spec, "host") == "green"


@pytest.mark.parametrize("change", [{"worst": 0.1}, {"cases": 99}, {"failed": []}, {"source_hash": "0" * 64}])
def test_a_receipt_that_was_changed_by_hand_is_red(spec, change):
    path = receipt.write(spec, made(spec, failed=("x",) if "failed" in change else ()))
    data = json.loads(path.read_text())
    data["Integrator"] |= change
    path.write_text(json.dumps(data))
    held = receipt.held(spec)["host"]
    assert held.state == "red" and "seal is broken" in held.why and receipt.find(spec, "host") is None


def test_one_whose_figures_contradict_each_other_is_red_though_sealed(spec):
    receipt.write(spec, made(spec, results={"a": 0.5, "b": 0.4}, tensors={"y": 0.5}))
    assert receipt.state(spec, "host") == "green"
    receipt.write(spec, made(spec, results={"a": 0.9, "b": 0.4}, tensors={"y": 0.5}))
    assert receipt.state(spec, "host") == "red"


def test_one_of_an_older_kind_is_stale(spec):
    path = receipt.write(spec, made(spec))
    data = json.loads(path.read_text())
    for key in ("seal", "schema", "parts"):
        del data["Integrator"][key]
    path.write_text(json.dumps(data))
    assert receipt.held(spec)["host"].why == "an older elmanctl wrote it"


@pytest.mark.parametrize("variant", KERNELS, ids=lambda v: v.name)
def test_every_shipped_kernel_has_host_and_device_receipts_that_nobody_changed(variant):
    held = receipt.held(Spec(variant, variant.config()))
    for target in ("host", "sm_90a"):
        assert held[target].state in ("green", "stale"), held[target].why


@pytest.mark.parametrize("variant", KERNELS, ids=lambda v: v.name)
def test_races_and_accesses_of_every_shipped_kernel_were_looked_for_as_it_is(variant):
    spec = Spec(variant, variant.config())
    found = receipt.held(spec, ("host",)).get("host")
    looked = {f"{tool} {dtype}" for tool in ("race", "address") for dtype in ("float32", "bfloat16")}
    held = found is not None and found.state == "green" and looked <= set(found.receipt.sanitized)
    assert held, f"make it again and commit it: elmanctl verify {spec.name} --device cpu --sanitize"


@pytest.mark.parametrize("variant", KERNELS, ids=lambda v: v.name)
def test_every_shipped_kernel_has_a_proof_in_each_of_its_receipts(variant):
    for target, held in receipt.held(Spec(variant, variant.config())).items():
        proof = held.receipt.proof
        assert proof and proof.score >= policy.SCORE and proof.truth_killed == proof.truth_mutants, target


@pytest.mark.parametrize("variant", [v for v in KERNELS if v.presets], ids=lambda v: v.name)
def test_every_published_name_of_a_shipped_kernel_has_a_receipt_of_its_kernel(variant):
    known = [spec for target in receipt.recorded(variant) for spec in receipt.configurations(variant, target)]
    for preset in variant.presets:
        spec = registry().resolve(preset)
        assert any(other == spec or receipt.same_kernel(spec, other) for other in known), preset


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


@pytest.mark.parametrize("content", [b'{"Integrator": 3}', b'{"Integr\xff": {}}', b'{"Integrator": ' + b"[" * 100_000])
def test_a_file_that_is_no_receipt_is_named(spec, folder, content):
    (folder / "receipts").mkdir()
    (folder / "receipts" / "host.json").write_bytes(content)
    held = receipt.held(spec)["host"]
    assert held.state == "red" and re.search(r"host.json is no file of receipts: .*verify puts it aside", held.why)
    assert receipt.find(spec, "host") is None


def test_the_file_is_plain_json_keyed_by_model(spec):
    path = receipt.write(spec, made(spec))
    data = msgspec.json.decode(path.read_bytes())
    assert list(data) == ["Integrator"] and data["Integrator"]["kind"] == "kernel"


def test_a_proof_that_failed_makes_it_red_until_one_succeeds_and_no_plain_run_takes_that_back(spec, folder):
    numbers = {"truth_mutants": 9, "mutants": 9, "killed": 8, "score": 0.9}
    receipt.write(spec, made(spec, sanitized=("race float32",)))
    receipt.write(spec, made(spec))
    assert receipt.find(spec, "host").sanitized == ("race float32",), "of the same sources, and still true"
    receipt.attach(spec, "host", Proof(**numbers, truth_killed=8, truth_survivors=("late (full)",)), False)
    held = receipt.held(spec)["host"]
    assert held.state == "red" and "would not notice" in held.why and held.receipt.proof.truth_survivors
    outcome = session.Outcome(Request(spec, "cpu"), "host", [Check("float32 B3 T2 D48 typical", "case", True)])
    path, said = keep(outcome)
    assert path and "stays red" in said and receipt.find(spec, "host") is None
    receipt.write(spec, made(spec, failed=("float32 T2",)))
    receipt.attach(spec, "host", Proof(**numbers, truth_killed=9), True)
    assert receipt.held(spec)["host"].receipt.failed == ("float32 T2",), "a proof vouches for no kernel that fails"
    receipt.write(spec, made(spec))
    receipt.attach(spec, "host", Proof(**numbers, truth_killed=8), False)
    receipt.attach(spec, "host", Proof(**numbers, truth_killed=9), True)
    assert receipt.state(spec, "host") == "green"
    receipt.write(spec, made(spec))
    assert receipt.find(spec, "host").proof.truth_killed == 9 and "Receipt: " in keep(outcome)[1]
    receipt.attach(spec, "host", Proof(**numbers, truth_killed=8), False)
    (folder / "reference.py").write_text((folder / "reference.py").read_text() + "\n")
    receipt.write(spec, made(spec))
    assert receipt.state(spec, "host") == "green", "other sources"


def test_a_receipt_vouches_for_other_sizes_of_the_same_kernel_and_for_nothing_else(monkeypatch, tmp_path):
    monkeypatch.setattr(receipt, "places", lambda variant, target: (tmp_path / f"{target}.json",) * 2)

    def resolve(name):
        return registry().resolve(name)

    one = resolve("E88h8n32")
    receipt.write(one, made(one, variant="E88"))
    assert (
        receipt.find(resolve("E88h12n32"), "host").model == "E88h8n32"
        and receipt.state(resolve("E88h12n32"), "host") == "none"
    )
    forms = ("use_conv=true", "linear_state=true", "use_output_norm=true", "expansion=2")
    for other in ("E88h8n16", *(f"E88h8n32:{form}" for form in forms)):
        assert receipt.find(resolve(other), "host") is None, other
    failed = resolve("E88h12n32")
    receipt.write(failed, made(failed, failed=("float32 T2",)))
    assert receipt.find(failed, "host") is None, "what failed itself is vouched for by nobody"
    assert receipt.find(resolve("E88h20n32"), "host").model == "E88h8n32"


@pytest.mark.parametrize(
    "name", ["E1:expansion=1.5", "E4:expansion=4.0,rank=64", "E73n96:form=plain,save_every=1", "cudagru"]
)
def test_a_canonical_name_is_read_back(name):
    spec = registry().resolve(name)
    assert receipt.named(spec.variant, spec.name) == spec
    assert (
        receipt.named(spec.variant, f"{spec.variant.name}:gone=1") is None and receipt.named(spec.variant, "X1") is None
    )
