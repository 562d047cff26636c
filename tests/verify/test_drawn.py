"""Drawn shapes and zero inputs: legal, repeatable, and able to catch what the chosen cases do not show."""

import dataclasses

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_properties import Fake
from toys import Delta

from elmanctl.verify import cases, drawn, session, truth
from elmanctl.verify.plan import Plan, Request
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


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), ks=st.sampled_from([2, 8, 16]))
def test_any_seed_draws_legal_shapes(seed, ks):
    variant = type("V", (), {"module": lambda self, name: None, "rules": type("R", (), {"of": lambda self, n: []})()})()
    spec = type("S", (), {"variant": variant, "name": "Toy", "config": None})()
    for case in drawn.shapes(spec, Delta.kernel, {"N": 8, "K": ks}, ("float32",), DRAWS, seed):
        sizes = dict(case.sizes)
        assert 1 <= sizes["T"] <= 3 * ks + 1 and 1 <= sizes["H"] <= drawn.OTHERS


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
