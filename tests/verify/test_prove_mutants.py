"""Edits of a kernel: the operators that make them, the children that run them, which may hang or crash, and what becomes of an edit."""

import mmap
import os
import resource
import time

import pytest

from elmanctl import toolchain
from elmanctl.errors import UserError
from elmanctl.plugins.registry import registry
from elmanctl.verify import cases, drawn, truth
from elmanctl.verify.plan import Plan, Request
from elmanctl.verify.prove import child, kernel_mutants, operators, proof
from elmanctl.verify.prove.child import isolated
from elmanctl.verify.prove.edits import Edit
from elmanctl.verify.prove.findings import Findings


@pytest.mark.parametrize(
    ("operator", "code", "new"),
    [
        ("drop a term", "a = f(x + 1) * b - c * d;", "a = f(x + 1) * b;"),
        ("swap operands", "a = b - c[i - 1] * d;", "a = c[i - 1] * d - b;"),
        ("swap arguments", "f(a, g(b, c));", "f(g(b, c), a);"),
        ("change a sign", "x += a;", "x -= a;"),
        ("off by one in a loop", "for (int t = 0; t < T; ++t) {", "for (int t = 0; t < T - 1; ++t) {"),
        ("off by one in an index", "y = h[at];", "y = h[at + 1];"),
        ("change a comparison", "if (i < N) return;", "if (i <= N) return;"),
        ("skip the tail", "n = ceil_div<int>(T, K);", "n = ((T) / (K));"),
        ("omit a store", "  store(p.y + at, h * h);", "  (void)0;"),
        ("another step", "x = row + t * stride;", "x = row + (t > 0 ? t - 1 : t + 1) * stride;"),
        ("remove a sync", "sync_block();", ";"),
        ("swap branches", "x = a ? b : c;", "x = a ? c : b;"),
    ],
)
def test_an_operator_makes_the_edit_that_its_name_says(operator, code, new):
    assert new in list(operators.OPERATORS[operator](code, 0))


def test_a_child_that_hangs_or_dies_ends_and_what_it_said_is_kept():
    def hang(say):
        say({"case": "a"})
        while True:
            pass

    def die(say):
        say({"case": "b"})
        os.abort()

    def sleep(say):
        time.sleep(1.5)

    found = [isolated(work, 1) for work in (hang, die, sleep)]
    assert [e.how for e in found] == ["hangs", "crashes", "end"], "one that waits for a core does not hang"
    assert [e.said for e in found] == [[{"case": "a"}], [{"case": "b"}], []]
    assert 0.9 < found[0].seconds < 3 and found[2].seconds < 1
    started = time.monotonic()
    assert isolated(sleep, 1, wall=0.3).how == "hangs" and time.monotonic() - started < 1.4


def test_a_child_has_room_beside_what_its_parent_has_mapped_and_no_more():
    """A context of a CUDA device maps more than 100 GB of addresses, of which a limit counts every byte."""

    def fill(size):
        return lambda say: say({"got": len(bytearray(size))})

    with mmap.mmap(-1, 150 << 30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ):
        assert isolated(fill(1 << 20), 5).said == [{"got": 1 << 20}]
        assert isolated(fill(2 * child.MEMORY), 5).how == "crashes"


def test_a_child_obeys_the_limits_that_stand_and_one_that_cannot_be_limited_is_the_machines_fault(monkeypatch):
    def stand(say):
        resource.setrlimit(resource.RLIMIT_CPU, (1000, 1000))
        say({"inner": isolated(lambda tell: tell({"cpu": resource.getrlimit(resource.RLIMIT_CPU)}), 2000).said})

    (said,) = isolated(stand, 2000).said
    assert said["inner"] == [{"cpu": [1000, 1000]}]

    def refuse(what, limits):
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "setrlimit", refuse)
    with pytest.raises(UserError, match="not allowed to raise maximum limit"):
        isolated(lambda say: say({}), 5)


def fates_of(spec, *edits):
    """Return what becomes of edits of the toy's kernel, (old, new) each, in fp32."""
    plan = Plan(Request(spec, "cpu"))
    listed = proof._cases(plan, "float32")
    parts = (plan.kernel, plan.reference, plan.constants)
    known = {c.id: truth.establish(truth.draw(*parts, c, 0)) for c in listed.every}
    bench = proof._bench(plan, "float32", listed, known)
    original = kernel_mutants.original([bench])
    file = next(spec.variant.folder.glob("*.cu.cc"))
    lines = file.read_text().splitlines()
    for old, new in edits:
        number = next(i for i, line in enumerate(lines) if old in line)
        edit = Edit(file.resolve(), number + 1, "by hand", lines[number], lines[number].replace(old, new))
        yield kernel_mutants.fate([bench], original, edit)


def fate_of(spec, old, new):
    return next(fates_of(spec, (old, new)))


def test_edits_that_show_only_on_structured_inputs_or_a_long_case_are_killed_there(spec):
    """Of E68's inhibiting form `h < 0` became `h <= 0`: the gradient of a first state of 0, which no draw of its reference has."""
    planted = {
        "zero-state": ("p.d_h0[i] = carry;", "p.d_h0[i] = p.h0[i] == 0 ? acc(1.1) * carry : carry;"),
        "zero-input": (
            "store(p.d_x + at, carry);",
            "store(p.d_x + at, load(p.x + at) == 0 ? acc(1.1) * carry : carry);",
        ),
        "large-input": ("store(p.y + at, h * h);", "store(p.y + at, h * h > 1e4 ? acc(1.1) * h * h : h * h);"),
        "T67": ("acc h = p.h0[i];", "acc h = p.T > 40 ? acc(0) : p.h0[i];"),
    }
    for which, found in zip(planted, fates_of(spec, *planted.values()), strict=True):
        assert found.outcome == "killed" and all(which in case for case in found.by), (which, found.by)


@pytest.mark.parametrize(("most", "left"), [(drawn.MOST, 2), (1e-3, 1)])
def test_what_large_inputs_make_overgrow_is_left_out_as_in_verify(spec, monkeypatch, most, left):
    plan = Plan(Request(spec, "cpu"))
    small, large = (cases.make(plan.kernel, {"D": 16}, "float32", 3, kind) for kind in ("typical", drawn.LARGE))
    known = {c.id: plan.truth(plan.named(c.id)) for c in (small, large)}
    monkeypatch.setattr(drawn, "MOST", most)
    assert len(proof._bench(plan, "float32", proof.Listed([small], [], [large]), known).truths) == left


@pytest.mark.parametrize(("steps", "outcome"), [(200, "survived"), (100_000, "equivalent")])
def test_an_edit_that_only_shows_over_many_steps_is_a_survivor_and_not_equivalent(spec, steps, outcome):
    found = fate_of(spec, "acc h = p.h0[i];", f"acc h = p.T > {steps} ? acc(0) : p.h0[i];")
    assert found.outcome == outcome and ("T259" in found.different) == (outcome == "survived")


def test_an_edit_that_only_shows_in_a_build_of_thorough_cases_is_a_survivor_and_not_equivalent(monkeypatch):
    """Of the dense family a width of 16 is another division of the work, which no default case has."""
    plan = Plan(Request(registry().resolve("E36"), "cpu"))
    listed = proof.Listed(proof._cases(plan, "float32").quick, [], [])
    known = {c.id: plan.truth(plan.named(c.id)) for c in listed.every}
    every = plan.cases(["float32"], quick=True)
    small = plan.named("float32 B2 T3 D16 typical").case
    monkeypatch.setattr(plan, "cases", lambda *_, **__: [*every, small])
    bench = proof._bench(plan, "float32", listed, known)
    assert list(bench.further.thorough) == [small.id] and bench.further.builds[0] not in bench.builds
    original = kernel_mutants.original([bench])
    header = toolchain.csrc_folder().resolve() / "elman/families/dense_recurrence.cuh"
    lines = header.read_text().splitlines()
    number = next(i for i, line in enumerate(lines) if "store2(p.h_last + at.corner" in line)

    def fate(at):
        new = lines[number].replace("h.x, h.y", f"h.x, D {at} 16 ? A(0) : h.y")
        return kernel_mutants.fate([bench], original, Edit(header, number + 1, "by hand", lines[number], new))

    found = fate("==")
    assert found.outcome == "survived" and found.different == small.id
    assert fate("<").outcome == "equivalent"


def test_a_case_that_a_killed_mutant_passes_is_held_against_that_case_alone(spec):
    """Its error grows with the steps, from a few units in the last place."""
    found = fate_of(
        spec,
        "h = p.a[d] * h + load(p.x + at);",
        "h = p.a[d] * h * (acc(1) + acc(t > 2 ? 1e-2 : 1e-7)) + load(p.x + at);",
    )
    assert found.outcome == "killed" and not found.everywhere
    assert any("T2 " in case for case in found.missed) and any("T9 " in case for case in found.by)
    findings = Findings({case: [] for case in (*found.by, *found.missed)}, [found])
    scores = {s.case: s for s in findings.shapes()}
    assert all(scores[c].killed == 1 for c in found.by) and all(scores[c].missed for c in found.missed)
