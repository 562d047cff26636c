"""Runs of many checks: what is shipped passes, workers and one process agree, a device's path gives the same."""

import dataclasses

import pytest

from elmanctl.plugins.registry import registry
from elmanctl.variant import Spec
from elmanctl.verify import hashes, session
from elmanctl.verify.plan import Plan, Request

SHIPPED = {n: v for n, v in registry().variants().items() if not v.requires}
FIRST = {hashes.family(v): n for n, v in reversed(SHIPPED.items()) if v.has_kernel}  # one of each family


@pytest.mark.parametrize("name", [n for n, v in SHIPPED.items() if n in FIRST.values() or not v.has_kernel])
def test_the_quick_set_passes_for_a_variant_of_each_family_and_every_library(name):
    """The others have receipts bound to their sources (test_receipt.py); `make receipts` verifies those whose sources changed."""
    spec = Spec(SHIPPED[name], SHIPPED[name].config())
    outcome = session.verify(Request(spec, "cpu", quick=True))
    assert outcome.ok, [(c.id, c.message, c.worst) for c in outcome.checks if not c.ok]
    kinds = {c.kind for c in outcome.checks}
    assert kinds == ({"case", "property", "layer"} if SHIPPED[name].has_kernel else {"layer"})


def test_one_process_workers_and_the_device_path_find_the_same(spec, monkeypatch):
    request = Request(spec, "cpu", quick=True, dtype="float32")
    plan = Plan(request)
    tasks = plan.tasks()
    alone = session.verify(request, jobs=1).checks
    pooled = session.verify(request, jobs=2).checks
    device, facts = session.on_device(plan, tasks, lambda done: None, 2, 100.0)
    assert facts == {"target": "host", "name": "host"}

    def figures(checks):
        return [(c.id, c.ok, c.rows) for c in checks]

    assert figures(alone) == figures(pooled) == figures(device)
    assert [c.id for c in alone] == [t.id for t in tasks] and all(c.ok for c in alone)


def test_seeds_differ_and_a_case_alone_repeats_what_it_gave_among_others(spec):
    all_of_it = {c.id: c.rows for c in session.verify(Request(spec, "cpu", quick=True), jobs=1).checks}
    id = next(i for i in all_of_it if i.startswith("bfloat16 B3"))
    assert session.verify(Request(spec, "cpu", case=id)).checks[0].rows == all_of_it[id]
    assert session.verify(Request(spec, "cpu", case=id, seed=1)).checks[0].rows != all_of_it[id]


def test_progress_counts_every_check(spec):
    seen = []
    session.verify(Request(spec, "cpu", quick=True, dtype="float32"), lambda done, count: seen.append((done, count)))
    assert [d for d, _ in seen] == list(range(1, len(seen) + 1)) and {c for _, c in seen} == {len(seen)}


def test_a_reference_that_marks_no_declared_point_is_a_failed_check(spec):
    plan = Plan(Request(spec, "cpu"))
    plan.kernel = dataclasses.replace(plan.kernel, rounds={"operand": "forward"})
    plan.reference = type(
        "R", (), {"forward": staticmethod(plan.reference.forward), "draw": staticmethod(plan.reference.draw)}
    )
    check = plan.run(plan.kernel_tasks()[0])
    assert not check.ok and "rounds names operand, but reference.py marks no such point" in check.message
