"""Planted mistakes: the field's own on a real kernel, mutants of the truth and where they act, and a whole proof."""

import json
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
import torch

from elmanctl.cli import run
from elmanctl.commands import verify as commands
from elmanctl.commands.verify import prove_one
from elmanctl.plugins.registry import registry
from elmanctl.verify import cases, hashes, receipt, truth
from elmanctl.verify.plan import Plan, Request
from elmanctl.verify.prove import extents, faults, proof, show, terms
from elmanctl.verify.prove.findings import Findings
from elmanctl.verify.prove.truth_mutants import Verdict, verdicts
from elmanctl.verify.record import Proof, Receipt
from elmanctl.verify.run import Compiled

HISTORIC = {
    "norms match, values do not": ("store(p.d_x + at, carry);", "store(p.d_x + at - d + (p.D - 1 - d), carry);", "d_x"),
    "gradient one step late": ("load(p.d_y + at)", "(t + 1 < p.T ? load(p.d_y + at + p.D) : acc(0))", "d_x"),
    "backward replays another recurrence": ("if (bounded) carry", "if (!bounded) carry", "d_x"),
    "size returns unwritten memory": ("acc h = p.h0[i];", "if (p.T > 8) return; acc h = p.h0[i];", "y"),
    "first state taken as zero": (": p.h0[i])", ": acc(0))", "d_a"),
    "first state returned as the last": ("p.h_last[i] = h;", "p.h_last[i] = p.h0[i];", "h_last"),
    "right for one row only": ("a_part += carry * (t ? p.h[at - p.D]", "a_part += carry * (t ? p.h[at - p.D - b * p.T * p.D]", "d_a"),
}  # fmt: skip


def edit(folder, old, new, name=None):
    path = folder / (name or f"{folder.name}.cu.cc")
    text = path.read_text()
    assert text.count(old) == 1, old
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize("bug", HISTORIC)
def test_each_historic_mistake_is_rejected_in_the_tensor_that_is_wrong(folder, spec, bug):
    old, new, tensor = HISTORIC[bug]
    edit(folder, old, new)
    plan = Plan(Request(spec, "cpu"))
    check = plan.run(plan.named("float32 B3 T9 typical"))
    assert not check.ok and tensor in {row.tensor for row in check.rows if not row.ok}


def test_an_option_that_never_reaches_the_kernel_is_rejected(folder, spec):
    edit(folder, "args::Constant::BOUNDED != 0", "false")
    plan = Plan(Request(spec, "cpu"))
    assert not plan.run(plan.named("option bounded=true")).ok


def planted(spec, draw=None, T=9):
    plan = Plan(Request(spec, "cpu"))
    reference = SimpleNamespace(
        forward=plan.reference.forward, draw=draw or plan.reference.draw, __file__=plan.reference.__file__
    )
    case = cases.make(plan.kernel, {"D": 16}, "float32", T, "typical")
    return verdicts(Compiled(plan.kernel, plan.constants), plan.kernel, reference, plan.constants, case, 0), plan


def test_every_truth_mutant_dies_and_what_does_not_apply_is_said(spec):
    found, _ = planted(spec, T=11)
    applies = [v for v in found if v.ratio is not None]
    assert len(applies) > 60 and [v for v in applies if not v.killed] == []
    reasons = {v.fault: v.reason for v in found if v.extent == "full" and v.ratio is None}
    assert reasons["transposed weight in backward"] == "no weight of two dimensions"
    names = {v.fault for v in applies}
    assert {"gradient one step late", "bf16 carry", "last partial chunk skipped", "stale d_x", "zeros in y"} <= names
    assert any(n.startswith("term dropped: reference line") for n in names)


def test_a_draw_that_hides_a_mistake_behind_a_zero_first_state_is_found_out(spec):
    plan = Plan(Request(spec, "cpu"))

    def zero(kind, shapes, constants, randn):
        return plan.reference.draw(kind, shapes, constants, randn) | {"h0": torch.zeros(shapes["h0"])}

    found, _ = planted(spec, zero)
    assert "first state ignored" in {v.fault for v in found if v.extent == "full" and v.ratio == 0}


@pytest.mark.parametrize(("name", "files"), [("E36", {"dense_reference.py"}), ("E88", {"reference.py"})])
def test_terms_are_found_in_the_familys_reference_too(name, files):
    """A variant's reference.py may be no more than names of parts: each operation of theirs is a site of its own."""
    plan = Plan(Request(registry().resolve(name), "cpu"))
    case = cases.Case("float32", (("B", 1), ("T", 2), *(plan.cases(["float32"], quick=True)[0].sizes[2:])), "typical")
    found = terms.terms(truth.draw(plan.kernel, plan.reference, plan.constants, case, 0), plan.reference.__file__)
    assert {Path(t.file).name for t in found} == files and len({(t.file, t.line) for t in found}) > 1


@pytest.mark.parametrize(("shape", "applies"), [((2, 1, 3), False), ((2, 3, 1), False), ((2, 2, 3), True)])
def test_a_row_alone_is_its_own_transpose_and_nothing_that_could_survive(shape, applies):
    spec = SimpleNamespace(name="p", dims=("H", "K", "N"))
    right = {"d_p": torch.arange(float(torch.Size(shape).numel())).view(shape)}
    scene = SimpleNamespace(right=right, before=right, kernel=SimpleNamespace(input_specs=[spec]))
    found = dict(faults.of_one_tensor(scene, "d_p"))["transposed d_p (not square)"]
    assert isinstance(found, dict) == applies and (not applies or not torch.equal(found["d_p"], right["d_p"]))


def test_masks_find_a_head_in_products_and_sums_of_dimensions():
    sizes = {"B": 2, "T": 3, "H": 3, "N": 2, "M": 1}
    mask = extents.of_head(("B", "T", "2*H*N+H*M"), "H", sizes)
    assert mask.int().tolist() == [0, 0, 1, 1, 0, 0, 0, 0, 1, 1, 0, 0, 0, 1, 0]
    mask = extents.of_head(("B", "(4+2*P)*H*N+(1-TIED)*H*M", "T"), "H", {"P": 0, "TIED": 1, "H": 2, "N": 1, "M": 3})
    assert mask.flatten().int().tolist() == [0, 1] * 4 and mask.shape == (8, 1)
    assert extents.of_head(("B", "(H+1)*N"), "H", sizes) is None, "no part of such an axis is one head's"
    assert extents.of_head(("B", "T"), "H", sizes) is None
    assert extents.of_last_chunk(("B", "T", "N"), 11, 4).flatten().int().tolist() == [0] * 8 + [1] * 3
    assert extents.of_last_chunk(("B", "T"), 4, 4) is None


def test_a_proof_is_kept_in_the_receipt_and_a_later_plain_run_keeps_it(folder, spec, capsys):
    call = ["verify", "Integrator", "--device", "cpu", "--prove", "--mutants", "12", "--json"]
    code = run(call)
    found = json.loads(capsys.readouterr().out)[0]["proof"]
    assert code == 0 and found["ok"] and found["mutants"] == 12 and found["score"] >= 0.95
    assert found["truth_killed"] == found["truth_mutants"] > 60 and len(found["killed_by"]) == found["killed"]
    shapes = {s["case"]: s for s in found["shapes"]}
    truths = [s["truth_seen"] for s in shapes.values() if s["truth_seen"]]
    assert len(truths) > 8 and min(truths) > 40 and all(s["killed"] <= s["seen"] <= 12 for s in shapes.values())
    assert {case.rpartition(" ")[2] for case in shapes} >= {"zero-input", "zero-state", "large-input"}
    stored = folder / "receipts" / "host.json"
    assert json.loads(stored.read_text())["Integrator"]["proof"]["shapes"] == found["shapes"]
    assert run(["verify", "Integrator", "--device", "cpu"]) == 0
    assert json.loads(stored.read_text())["Integrator"]["proof"]["killed"] == found["killed"]


@pytest.mark.parametrize("passed", ["host", "sm_90a"])
def test_a_proof_goes_into_every_receipt_that_vouches_for_the_sources(spec, monkeypatch, passed):
    shown = Proof(truth_mutants=3, truth_killed=3, mutants=2, killed=2, score=1.0)
    found = SimpleNamespace(ok=True, record=lambda: shown)
    asked = []
    monkeypatch.setattr(proof, "prove", lambda plan, *rest: asked.append(plan.request) or found)
    monkeypatch.setattr(show, "show", lambda *_: None)
    monkeypatch.setattr(show, "as_json", lambda _: {})
    for target in ("host", "sm_90a"):
        plain = {"target": target, "source_hash": hashes.source_hash(spec.variant), "dtypes": ("float32",), "cases": 1}
        parts = hashes.parts(spec, target)
        worst = {"worst": 0.5, "worst_tensor": "y", "seconds": 1.0, "created": "2026-11-22T10:00:00+00:00"}
        receipt.write(spec, Receipt(variant=spec.variant.name, model=spec.name, parts=parts, **plain, **worst))
    assert prove_one(SimpleNamespace(spec=spec, seed=5, target=passed), 2, json=False)[1]
    assert [(r.device, r.target, r.seed) for r in asked] == [("cpu", "host", 5)]
    kept = msgspec.structs.replace(shown, scope=hashes.kernel_scope(spec))
    assert [receipt.find(spec, target).proof for target in ("host", "sm_90a")] == [kept, kept]


@pytest.mark.parametrize("name", ["gru", "E42:recurrence=cublas"])
def test_where_no_kernel_of_ours_runs_a_proof_is_said_not_to(monkeypatch, capsys, name):
    monkeypatch.setattr(commands, "verify_one", lambda *_: ({}, True))
    assert run(["verify", name, "--device", "cpu", "--prove", "--json"]) == 0
    said = capsys.readouterr()
    assert f"--prove is not run: {name} has no kernel of its own" in said.err
    assert json.loads(said.out) == [{"proof": None}]


@pytest.mark.parametrize(
    "more", [["--mutants", "3"], ["--prove", "--quick"], ["--prove", "--case", "T2"], ["--prove", "--watch"]]
)
def test_a_proof_of_a_part_is_refused(spec, capsys, more):
    assert run(["verify", "Integrator", "--device", "cpu", *more]) == 2
    assert "--prove" in capsys.readouterr().err


def test_a_truth_mutant_that_some_shape_sees_and_passes_in_full_is_no_proof():
    seen = [Verdict("late", "full", 9.0), Verdict("late", "2 %", 2.0)]
    blind = [Verdict("late", "full", 0.5), Verdict("late", "2 %", 0.1)]
    unseen = [Verdict("late", "full", 0.0, tensor="no result changes")]
    assert Findings({"a": seen, "b": unseen}).surviving_truths() == []
    assert Findings({"a": seen, "b": blind}).surviving_truths() == ["late (full) on b"]
    scores = Findings({"a": seen, "b": blind, "c": unseen}).shapes()
    assert [(s.truth_killed, s.truth_seen) for s in scores] == [(2, 2), (0, 2), (0, 0)]
    assert scores[1].missed == ("late (full)", "late (2 %)")


def test_a_part_of_time_is_asked_of_the_results_that_a_fault_changes_alone():
    """What E2's diagonal form saves reaches the gradient of its decay, which has no time, and not d_wx, which has."""
    plan = Plan(Request(registry().resolve("E2d"), "cpu"))
    case = cases.make(plan.kernel, {"D": 16}, "float32", 67, "typical")
    library = Compiled(plan.kernel, plan.constants)
    found = {
        v.extent: v
        for v in verdicts(library, plan.kernel, plan.reference, plan.constants, case, 0)
        if v.fault == "stale saved tensors"
    }
    assert found["full"].killed and found["full"].tensor == "d_decay"
    assert found["last chunk"].reason == "no tensor that it changes has such a part"
