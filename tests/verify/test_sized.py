"""`verify --shape`: builds that other widths and rows take have a case of their own in a receipt, and are told where they have none."""

import dataclasses

import msgspec
import pytest
import torch

from elmanctl import launch, provenance
from elmanctl.cli import run
from elmanctl.commands import bench_kernels, verify_choice
from elmanctl.errors import CheckFailed, UserError
from elmanctl.kernelbench.shapes import Shape
from elmanctl.plugins.registry import registry
from elmanctl.records import Budget, Training, Trial
from elmanctl.tiles import DEVICES, DoesNotFit
from elmanctl.verify import plan, receipt, sized
from elmanctl.verify.record import nothing
from tests.verify.test_kept import CALL, edit

H200 = DEVICES["sm_90a"]
TILING = """    constants={"BOUNDED": "1: tanh on the state"},
    tiling=Tiling({"WIDE": "1: from 16 rows on"}, lambda sizes, dtype, device: {"WIDE": int(sizes["B"] >= 16)}, {"B": 32}),
"""


def ids(name, results, *shapes):
    spec = registry().resolve(name)
    known = msgspec.structs.replace(
        nothing(spec.variant.name, spec.name, "sm_90a"), results=dict.fromkeys(results, 0.5)
    )
    return [case.id for case in sized.lacking(spec, known, shapes, H200)]


def test_each_division_of_the_work_has_a_case_of_its_own():
    small = ["bfloat16 B3 T17 D48 typical", "layer truth", "float32 B32 T9 D1536 typical"]
    wide, wider = "bfloat16 B32 T9 D1536 typical", "bfloat16 B128 T9 D1536 typical"
    assert ids("E42", small, Shape(), Shape(T=8192), Shape(B=128)) == [wide, wider]  # the steps do not matter
    assert ids("E42", [*small, wide], Shape(), Shape(B=128)) == [wider]
    assert ids("E42", small, Shape(B=3, dim=48)) == []


def test_a_case_is_of_the_layers_own_sizes_and_as_short_as_the_build_allows():
    assert ids("E1:expansion=2", [], Shape(dim=768)) == ["bfloat16 B32 T9 D1536 typical"]
    assert ids("E2s8", [], Shape(B=4)) == ["bfloat16 B32 T9 D1536 typical"]  # four sequences of eight slots
    few = Shape(B=1, T=512, dim=64)  # of few states the long sequences are spread over more lanes
    assert [text.split()[2] for text in ids("E88h4n16", ["bfloat16 B3 T9 H5 typical"], few)] == ["T67"]
    assert ids("E88h32n16", ["bfloat16 B3 T9 H5 typical"], Shape(dim=512)) == []


def test_what_has_no_divisions_lacks_none():
    for name in ("llama", "E42:recurrence=cublas", "E34"):
        assert ids(name, [], Shape()) == []


def test_a_shape_that_does_not_fit_is_refused_and_one_of_a_receipt_counts_for_nothing():
    with pytest.raises(UserError, match=r"B=128 T=512 dim=1536: .*D=1536, N=8, B=128 in bfloat16"):
        ids("E29a", [], Shape(B=128))
    wide = ["bfloat16 B128 T17 D1536 N8 typical", "bfloat16 B128 T17 D1536 typical"]
    assert ids("E29a", wide, Shape(dim=1024)) == ["bfloat16 B32 T17 D1024 typical"]


def test_a_chip_with_fewer_multiprocessors_divides_the_work_otherwise():
    spec, small = registry().resolve("E42"), dataclasses.replace(H200, multiprocessors=114)
    known = msgspec.structs.replace(nothing("E42", "E42", "sm_90a"), results={"bfloat16 B32 T9 D1536 typical": 0.5})
    assert sized.lacking(spec, known, [Shape()], H200) == []
    assert len(sized.lacking(spec, known, [Shape()], small, "a small chip")) == 1
    own = msgspec.structs.replace(known, device_name="a small chip")
    assert sized.lacking(spec, own, [Shape()], small, "a small chip") == []


def test_an_earlier_case_that_does_not_fit_here_is_not_run(monkeypatch):
    def full(*args):
        raise DoesNotFit("too wide")

    monkeypatch.setattr(plan, "Compiled", full)
    spec = registry().resolve("E42")
    (case,) = sized.lacking(spec, None, [Shape()], H200)
    for kept, ok in ((None, True), (nothing("E42", "E42", "host"), False)):
        made = plan.Plan(plan.Request(spec, "cpu", sized=(case,), kept=kept))
        (task,) = (task for task in made.tasks() if task.case == case)
        check = made.run(task)
        assert (check.ok, check.not_run) == (ok, ok) and "too wide" in check.message


@pytest.fixture
def divided(spec, folder):
    """Return the integrator with two builds, after a quick run that knows one of them."""
    edit(folder / "binding.py", '    constants={"BOUNDED": "1: tanh on the state"},\n', TILING)
    edit(folder / "binding.py", "import Kernel\n", "import Kernel\nfrom elmanctl.tiles import Tiling\n")
    assert run([*CALL, "--quick"]) == 0
    return folder


def test_a_case_is_added_to_the_receipt_and_runs_again_with_all_others(spec, divided, capsys):
    before = receipt.find(spec, "host")
    shape = ["--shape", "B=32,dim=64", "--shape", "B=2,dim=64"]
    assert run([*CALL, *shape]) == 0
    wide = "bfloat16 B32 T9 D64 typical"
    after = receipt.find(spec, "host")
    assert after.sized == (wide,) and after.results.keys() == before.results.keys() | {wide}
    assert (after.created, after.keys, after.cases) == (before.created, before.keys, before.cases + 1)
    capsys.readouterr()
    assert run([*CALL, *shape]) == 0
    assert "nothing to add" in capsys.readouterr().err
    assert run([*CALL, "--layer"]) == 0
    kept = receipt.find(spec, "host")
    assert kept.sized == (wide,) and wide in kept.results
    edit(divided / "reference.py", "The integrator in", "An integrator in")
    registry.cache_clear()
    request = verify_choice.with_earlier_sizes(plan.Request(registry().resolve("Integrator"), "cpu"))
    tasks = [task.id for task in plan.Plan(request).tasks()]
    assert wide in tasks and len(set(tasks)) == len(tasks) > 60
    assert run([*CALL, "--quick"]) == 0 and receipt.find(spec, "host").sized == (wide,)


def test_a_build_that_is_wrong_at_such_sizes_alone_makes_the_receipt_red(spec, divided, monkeypatch):
    edit(
        next(divided.glob("*.cu.cc")), "carry *= p.a[d];", "carry *= args::Constant::WIDE ? p.a[d] * acc(0.9) : p.a[d];"
    )
    assert run([*CALL, "--quick"]) == 0
    Request = plan.Request
    monkeypatch.setattr(plan, "Request", lambda spec, device: Request(spec, "cpu"))
    bench_kernels.check_builds(spec, [Shape(2, 512, 64)])
    assert receipt.state(spec, "host") == "green"
    with pytest.raises(CheckFailed, match=r"bfloat16 B32 T9 D64 typical: a kernel is not timed before it is right"):
        bench_kernels.check_builds(spec, [Shape(2, 512, 64), Shape(32, 512, 64)])
    known = receipt.held(spec)["host"]
    assert known.state == "red" and known.receipt.failed == ("bfloat16 B32 T9 D64 typical",)


def test_a_suites_rows_are_verified_whole_and_at_their_own_sizes(spec, divided, tmp_path, monkeypatch, capsys):
    whole = []  # as quick ones, for time
    quick = lambda request: whole.append(request.spec.name) or dataclasses.replace(request, quick=True)  # noqa: E731
    monkeypatch.setattr(verify_choice, "with_earlier_sizes", quick)
    (tmp_path / "two.yaml").write_text(
        "description: a test\ntraining: {batch: 32, chunk: 16}\nbudget: {steps: 1}\nmatched: false\nrows:\n"
        "  - {model: Integrator, dim: 64, depth: 1}\n  - {model: Integrator, options: {bounded: true}, dim: 64, depth: 1}\n"
    )
    call = ["verify", "--suite", "two.yaml", "--device", "cpu"]
    assert run(call) == 0
    bounded = registry().resolve("Integrator:bounded=true")
    for one in (spec, bounded):
        assert receipt.find(one, "host").sized == ("bfloat16 B32 T9 D64 typical",)
    assert whole == ["Integrator:bounded=true"]
    capsys.readouterr()
    assert run(call) == 0
    assert "receipts vouch for the kernel of each row, at its sizes" in capsys.readouterr().err
    assert run([*call, "--layer"]) == 2 and run([*call, "--prove"]) == 2 and run([*call, "Integrator"]) == 2


def test_without_a_receipt_there_is_nothing_to_add_to(spec, folder, capsys):
    assert run([*CALL, "--shape", "B=32,dim=64"]) == 2
    assert "Run elmanctl verify Integrator --device cpu first" in capsys.readouterr().err
    assert run([*CALL, "--shape", "B=32,dim=64", "--quick"]) == 2


def test_a_trial_says_which_build_its_receipt_does_not_know(monkeypatch):
    spec, device = registry().resolve("E42"), torch.device("cuda")
    training = msgspec.structs.replace(Training(data="data/corpus.txt"), batch=32, chunk=512)
    trial = Trial(
        model="E42", dim=1536, depth=6, params=1, label="E42", budget=Budget(steps=1), training=training, device="cuda"
    )
    known = nothing("E42", "E42", "sm_90a")
    monkeypatch.setattr(provenance, "target_of", lambda device: "sm_90a")
    monkeypatch.setattr(provenance, "name_of", lambda device: "NVIDIA H200")
    monkeypatch.setattr(launch, "device", lambda target, index: H200)
    monkeypatch.setattr(receipt, "find", lambda spec, target: known)
    said = provenance.remark(spec, trial, device)
    assert "no case of the build that B=32,T=512,dim=1536 takes" in said
    assert "elmanctl verify E42 --shape B=32,T=512,dim=1536 --device cuda" in said
    known = msgspec.structs.replace(known, results={"bfloat16 B32 T9 D1536 typical": 0.5})
    assert provenance.remark(spec, trial, device) == ""
    known = None  # nothing vouches for it, which the record says by itself
    assert provenance.remark(spec, trial, device) == provenance.remark(spec, trial, torch.device("cpu")) == ""
    cublas = dataclasses.replace(spec, config=dataclasses.replace(spec.config, recurrence="cublas"))
    known = nothing("E42", "E42", "sm_90a")
    assert provenance.remark(cublas, trial, device) == ""
