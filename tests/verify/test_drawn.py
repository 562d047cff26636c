"""Drawn shapes and zero inputs: legal, repeatable, and able to catch what the chosen cases do not show."""

import dataclasses
import os
import subprocess
import sys

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_properties import Fake
from toys import Delta

from elmanctl.plugins.registry import registry
from elmanctl.verify import cases, drawn, session, show, truth
from elmanctl.verify.plan import Plan, Request, Task
from elmanctl.verify.run import Compiled, run_case

DRAWS = ("typical", "saturated", "extreme")


def test_shapes_follow_the_rules_and_a_seed_repeats_them(spec):
    kernel, step = spec.variant.kernel(), 16
    dtypes = ("float32", "bfloat16")
    seen = set()
    for seed in range(50):
        found = drawn.shapes(spec, kernel, {"BOUNDED": 0}, dtypes, DRAWS, seed)
        assert found == drawn.shapes(spec, kernel, {"BOUNDED": 0}, dtypes, DRAWS, seed)
        assert [c.dtype for c in found] == [d for d in dtypes for _ in range(drawn.COUNT)]
        for case in found:
            sizes = dict(case.sizes)
            assert tuple(sizes) == kernel.dims and sizes["D"] % step == 0 and all(n >= 1 for n in sizes.values())
            assert sizes["T"] <= 3 * cases.CHUNK + 1 and sizes["B"] <= drawn.ROWS and case.draw in DRAWS
            assert cases.parse(case.id, spec, kernel, dtypes, DRAWS) == case
            seen.add(case.sizes)
    assert len(seen) > 150


def test_any_seed_draws_legal_shapes_whatever_the_chunk():
    variant = type("V", (), {"module": lambda self, name: None, "rules": type("R", (), {"of": lambda self, n: []})()})()
    spec = type("S", (), {"variant": variant, "name": "Toy", "config": None})()
    longest = {}
    for ks in (2, 8, 16, 64):
        for seed in (*range(8), 2**63):
            for case in drawn.shapes(spec, Delta.kernel, {"N": 8, "K": ks}, ("float32",), DRAWS, seed):
                sizes = dict(case.sizes)
                assert 1 <= sizes["T"] <= min(drawn.LONGEST, 3 * ks + 1) and 1 <= sizes["H"] <= drawn.OTHERS
                longest[ks] = max(longest.get(ks, 0), sizes["T"])
    assert longest[16] > 2 * 16 and longest[64] > 64


def test_a_seed_means_the_same_shapes_in_another_process_and_leaves_no_files(spec, tmp_path):
    """What Hypothesis finds in the sources, in a database or in the environment of a CI must not change what a seed draws."""
    call = (
        "from elmanctl.plugins.registry import registry; from elmanctl.verify import drawn\n"
        "s = registry().resolve('Integrator')\n"
        "print([c.id for n in range(20) for c in drawn.shapes(s, s.variant.kernel(), {}, ['float32'], ['a', 'b'], n)])"
    )
    mine = [c.id for n in range(20) for c in drawn.shapes(spec, spec.variant.kernel(), {}, ["float32"], ["a", "b"], n)]
    for ci in ("", "true"):
        ran = subprocess.run([sys.executable, "-c", call], capture_output=True, text=True, env=os.environ | {"CI": ci})
        assert ran.stdout.strip() == str(mine), ran.stderr
    assert not list(tmp_path.rglob(".hypothesis"))


def test_a_failing_shape_is_shrunk_to_the_smallest_that_fails(spec):
    kernel = spec.variant.kernel()
    parts = (spec, kernel, {"BOUNDED": 0}, "float32", DRAWS)
    asked = []

    def passes(case):
        asked.append(case)
        return not (dict(case.sizes)["T"] >= 5 and dict(case.sizes)["B"] > 1)

    seed = next(n for n in range(50) if any(not passes(c) for c in drawn.shapes(*parts[:3], ["float32"], DRAWS, n)))
    asked.clear()
    found = drawn.smallest(*parts, seed, drawn.COUNT, passes)
    assert found.id == "float32 B2 T5 D16 typical" and asked[0].id == "float32 B1 T1 D16 typical"
    assert drawn.smallest(*parts, seed, drawn.COUNT, lambda case: True) is None


def test_verify_shrinks_a_drawn_shape_that_fails_and_prints_it_with_its_command(folder, spec, capsys):
    """A channel past the first tile of 64 that loses its last state: shapes that nobody chose show it, and the smallest says where."""
    path = folder / f"{folder.name}.cu.cc"
    text = path.read_text()
    path.write_text(text.replace("p.h_last[i] = h;", "p.h_last[i] = p.T > 2 && p.D > 64 ? acc(0) : h;"))
    assert text != path.read_text()
    plan = Plan(Request(spec, "cpu"))
    wide = next(n for n in range(50) if any(_wide(c) for c in drawn_of(spec, n)))
    request = Request(spec, "cpu", seed=wide, dtype="float32")
    checks = [plan.run(Task(c.id, "case", c)) for c in drawn_of(spec, wide)]
    assert not all(c.ok for c in checks)
    small = session.smallest(Plan(request), checks)
    assert small.id == "float32 B1 T3 D80 typical" and not small.ok
    outcome = session.Outcome(request, "host", checks, drawn=[c.id for c in checks], smallest=small)
    show.show(outcome, "")
    said = " ".join(capsys.readouterr().out.split())
    assert "The smallest shape that Hypothesis shrinks a drawn one to: FAILED float32 B1 T3 D80 typical: h_last" in said
    assert f'--case "float32 B1 T3 D80 typical" --device cpu --seed {wide}' in said
    assert show.as_json(outcome, None)["smallest"] == small.id


def drawn_of(spec, seed):
    return [c for c in Plan(Request(spec, "cpu", seed=seed)).drawn() if c.dtype == "float32"]


def _wide(case):
    return dict(case.sizes)["D"] > 64 and dict(case.sizes)["T"] > 2


def test_the_plan_holds_them_under_ids_that_run_alone_and_names_the_seed(spec):
    plan = Plan(Request(spec, "cpu", seed=3))
    ids = [t.id for t in plan.tasks()]
    mine = [c.id for c in plan.drawn()]
    assert set(mine) <= set(ids) and len(ids) == len(set(ids))
    assert sum(i.endswith(drawn.STATE) for i in ids) == len(plan.dtypes)
    for id in (mine[0], next(i for i in ids if i.endswith(drawn.INPUT))):
        outcome = session.verify(Request(spec, "cpu", seed=3, case=id))
        assert outcome.ok and outcome.checks[0].id == id and not outcome.drawn
    full = session.verify(dataclasses.replace(plan.request, dtype="float32"), jobs=1)
    assert full.ok and full.drawn == [i for i in mine if i.startswith("float32")]


def test_zeros_are_set_where_the_kind_says():
    case = cases.Case("float32", (("B", 2), ("T", 4), ("H", 3)), drawn.STATE)
    still = truth.draw(Delta.kernel, Delta, {"N": 8}, case, 0)
    assert not still.inputs["S0"].any() and still.inputs["k"].any()
    quiet = truth.draw(Delta.kernel, Delta, {"N": 8}, dataclasses.replace(case, draw=drawn.INPUT), 0)
    assert quiet.inputs["S0"].any() and not any(quiet.inputs[n].any() for n in ("q", "k", "v", "decay"))
    large = truth.draw(Delta.kernel, Delta, {"N": 8}, dataclasses.replace(case, draw=drawn.LARGE), 0)
    assert large.inputs["k"].norm(dim=-1).allclose(torch.tensor(drawn.SCALE)) and large.inputs["S0"].abs().max() < 5


def test_a_tanh_that_overflows_is_found_with_large_inputs_alone_and_what_grows_without_bound_is_not_run(folder, spec):
    path = folder / f"{folder.name}.cu.cc"
    text = path.read_text()
    path.write_text(text.replace("tanh_of(h)", "(exp_of(2 * h) - 1) / (exp_of(2 * h) + 1)"))
    assert text != path.read_text()
    plan = Plan(Request(registry().resolve("Integrator", {"bounded": "true"}), "cpu"))
    found = {draw: plan.run(plan.named(f"float32 T9 {draw}")) for draw in (*DRAWS, *drawn.STRUCTURED)}
    assert [draw for draw, check in found.items() if not check.ok] == [drawn.LARGE]
    assert "h_last" in {r.tensor for r in found[drawn.LARGE].rows if not r.ok}

    class Growing(Delta):
        """The same recurrence without its tanh: each step multiplies by the square of a key's length."""

        forward = staticmethod(_linear)

    case = cases.Case("float32", (("B", 3), ("T", 9), ("H", 2)), drawn.LARGE)
    check = run_case(Fake(), Growing.kernel, Growing, {"N": 8}, case, 0)
    assert check.ok and check.not_run and "recurrence grows to" in check.message
    assert run_case(Fake(), Delta.kernel, Delta, {"N": 8}, case, 0).rows


def _linear(q, k, v, decay, S0, *, constants, at=None):
    S, ys = S0, []
    for t in range(q.shape[1]):
        u = v[:, t] - torch.einsum("bhij,bhj->bhi", S, k[:, t])
        S = decay[:, t, :, None, None] * S + u[..., None] * k[:, t, :, None, :]
        ys.append(torch.einsum("bhij,bhj->bhi", S, q[:, t]))
    return torch.stack(ys, 1), S


def test_a_gradient_that_is_lost_at_a_zero_state_is_found_there_alone():
    class Skips(Fake):
        """Skips the first state's gradient where the state is zero, as if nothing could depend on it."""

        def backward(self, tensors, gradients):
            results = super().backward(tensors, gradients)
            return results | {"d_S0": results["d_S0"] * torch.as_tensor(bool(tensors["S0"].any()))}

    case = cases.Case("float32", (("B", 3), ("T", 9), ("H", 2)), "typical")
    assert run_case(Skips(), Delta.kernel, Delta, {"N": 8}, case, 0).ok
    found = run_case(Skips(), Delta.kernel, Delta, {"N": 8}, dataclasses.replace(case, draw=drawn.STATE), 0)
    assert not found.ok and {r.tensor for r in found.rows if not r.ok} == {"d_S0"}
    assert run_case(Fake(), Delta.kernel, Delta, {"N": 8}, dataclasses.replace(case, draw=drawn.STATE), 0).ok


SIZES = {"B": st.integers(1, 5), "T": st.integers(1, 40), "D": st.integers(1, 6).map(lambda n: 16 * n)}


@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.fixed_dictionaries(SIZES), draw=st.sampled_from(DRAWS), dtype=st.sampled_from(["float32", "bfloat16"]))
def test_a_right_kernel_passes_at_any_shape_that_hypothesis_draws(spec, sizes, draw, dtype):
    plan = Plan(Request(spec, "cpu"))
    case = cases.Case(dtype, tuple((d, sizes[d]) for d in plan.kernel.dims), draw)
    check = run_case(Compiled(plan.kernel, plan.constants), plan.kernel, plan.reference, plan.constants, case, 0)
    assert check.ok, (case.id, check.message, check.worst)
