"""Functions that only divide the work: their edits are no mistakes, are left out and listed, and are held to being right."""

import dataclasses

import msgspec
import pytest

from elmanctl.plugins.registry import registry
from elmanctl.toolchain import csrc_folder
from elmanctl.verify.plan import Plan, Request
from elmanctl.verify.prove import kernel_mutants, proof
from elmanctl.verify.prove.compiling import candidates
from elmanctl.verify.prove.edits import Edit, edits
from elmanctl.verify.prove.findings import Findings
from elmanctl.verify.prove.kernel_mutants import Fate
from elmanctl.verify.prove.show import summary
from elmanctl.verify.prove.truth_mutants import Verdict
from elmanctl.verify.record import Proof

TEXT = """\
namespace x {
struct Shape { int R, C; };
ELMAN_DIVISION int one(int n) { return n + 1; }
ELMAN_BOTH int other(int n) { return n + 2; }
template <int N> struct Plan {
  template <class T> static ELMAN_DIVISION Shape choose(int N, bool back) {
    for (int i = 0; i < N; ++i)
      if (i * 3 > N) {
        N = i;
      }
    return {N / 2, 4 + N};
  }
  ELMAN_FN static int after(int n) {
    return n + 3;
  }
};
}  // namespace x
"""


def test_an_edit_names_the_division_that_it_lies_in(tmp_path):
    path = tmp_path / "x.cuh"
    path.write_text(TEXT)
    places = {(e.line, e.division) for e in edits(path)}
    assert places == {(3, "one"), (4, ""), *((n, "choose") for n in (7, 8, 9, 11)), (14, "")}


def test_the_shipped_families_mark_functions_of_the_compilers_time_only():
    """A division cannot touch data: the language forbids it to run beside the kernel."""
    text = (csrc_folder() / "elman" / "backend.cuh").read_text()
    marks = [line for line in text.splitlines() if line.startswith("#define ELMAN_DIVISION")]
    assert len(marks) == 2 and all(line.endswith("consteval") for line in marks)


def marked(folder, function, *changes):
    """Put a function marked as a division into the toy's kernel, and let the kernel use it."""
    path = folder / f"{folder.name}.cu.cc"
    text = path.read_text().replace("ELMAN_KERNEL(64) forward", f"{function}\nELMAN_KERNEL(64) forward")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)


def test_a_division_is_left_out_and_listed_and_its_edits_are_right_or_refused(folder, spec):
    marked(
        folder,
        "ELMAN_DIVISION int lanes(int warps) { return warps < 2 ? 64 : 32 * warps; }",
        ("blocks(a.B, a.D), 64,", "blocks(a.B, a.D), integrator::lanes(2),"),
        ("(B * D + 63) / 64)", "(B * D + lanes(2) - 1) / lanes(2))"),
    )
    inside = [e for e in candidates(folder) if e.division]
    found = proof.prove(Plan(Request(spec, "cpu")), 2, jobs=2)
    assert found.ok and len(found.divided) == len(inside) >= 3
    assert found.left_out() == [f"{folder.name}.cu.cc lanes: {len(inside)} edits, {len(inside)} tried"]
    assert found.record().divisions == tuple(found.left_out())
    assert any(f.refused for f in found.divided), "two threads a block: a launch refuses"
    assert not any(f.edit.division for f in found.fates), "none of them counts in the score"


def bench_of(plan, case):
    """Return a bench of one case, without the thorough ones, which only ask of equal results whether they always are."""
    bench = proof._bench(plan, "float32", proof.Listed([case], [], []), {case.id: plan.truth(plan.named(case.id))})
    return dataclasses.replace(bench, thorough={}, further=None)


def test_what_is_marked_and_is_no_division_makes_the_proof_fail(folder, spec):
    marked(
        folder, "ELMAN_DIVISION int sign(int n) { return n + 1; }", ("h = p.a[d] * h +", "h = p.a[d] * h * sign(0) +")
    )
    plan = Plan(Request(spec, "cpu"))
    case = plan.cases(["float32"], quick=True)[1]
    bench = bench_of(plan, case)
    known = kernel_mutants.original([bench])
    fates = [kernel_mutants.fate([bench], known, e) for e in candidates(folder) if e.division]
    right = {
        "fates": [Fate(fates[0].edit, "killed", {case.id: "wrong"})],
        "truth": {case.id: [Verdict("late", "full", 9.0)]},
    }
    assert Findings(**right).ok
    found = Findings(**right, divided=fates)
    assert not found.ok and found.score == 1 and found.surviving_truths() == []
    assert {f.edit.division for f in found.false_divisions()} == {"sign"}
    assert "edits of a marked division give wrong results" in summary(spec.name, found)


def test_a_proof_without_divisions_says_so_and_an_older_one_says_nothing():
    numbers = {"truth_mutants": 1, "truth_killed": 1, "mutants": 1, "killed": 1, "score": 1.0}
    assert b"divisions" not in msgspec.json.encode(Proof(**numbers)), "the seals of older receipts hold"
    assert b'"divisions":[]' in msgspec.json.encode(Proof(**numbers, divisions=()))


@pytest.mark.parametrize("name", ["E75", "E88"])
def test_the_matrix_family_marks_its_choice_of_tiles(name):
    found = {e.division for e in candidates(registry().resolve(name).variant.folder) if e.division}
    assert "choose" in found and "team_width" in found


@pytest.mark.parametrize(
    ("model", "file", "old", "new"),
    [
        ("E88", "tile.cuh", "least > usual ? least : usual", "4"),
        ("E75", "tile.cuh", "least > usual ? least : usual", "16"),
        ("E75", "vectors.cuh", "% 16 == 0 ? 16 : 8", "% 16 == 0 ? 16 : 4"),
    ],
)
def test_a_shipped_kernel_in_another_division_gives_other_bits_and_passes(model, file, old, new):
    plan = Plan(Request(registry().resolve(model), "cpu"))
    case = plan.cases(["float32"], quick=True)[1]
    bench = bench_of(plan, case)
    (edit,) = {
        (e.line, e.old): Edit(e.file, e.line, "by hand", e.old, e.old.replace(old, new), e.division)
        for e in candidates(plan.spec.variant.folder)
        if e.file.name == file and old in e.old
    }.values()
    found = kernel_mutants.fate([bench], kernel_mutants.original([bench]), edit)
    assert edit.division and found.outcome == "survived" and found.different == case.id, found
