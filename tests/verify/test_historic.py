"""Historic mistakes of this field, planted in the toy cell, which has a place for each: rejected in the tensor that is wrong.

What concerns the shipped kernels is planted in them by test_historic_families.py; only products that torch makes for them are wrong here.
"""

from types import SimpleNamespace

import pytest
import torch
from toys import head

from elmanctl.plugins.registry import registry
from elmanctl.verify import cases, remembered, truth
from elmanctl.verify.plan import Plan, Request
from elmanctl.verify.run import Compiled, run

LOW = "[&] {{ dtype<bfloat16>::type low; store(&low, {}); return (acc)load(&low); }}()"
# mistake: (what the line was, what it became, case that must reject it, tensor that must be named, tensors that must not)
PATCHES = {
    "E4: operands of the weight gradient swapped, norms agree": (
        "dW[i][j] += pre[i] * before[j];", "dW[i][j] += before[i] * pre[j];", "T9 typical", "d_W", "y d_x"),
    "E75: a size without a branch of its own falls through and leaves its memory unwritten": (
        "acc s[N], next[N];", "acc s[N], next[N]; if (p.H < 3) return;", "T9 H2 typical", "y", ""),
    "E79: no gradient where the state is zero": (
        "carry[i] = p.d_s_last", "carry[i] = p.s0[row * N + i] == 0 ? acc(0) : p.d_s_last", "T9 zero-state", "d_s0", "y"),
    "E88: gradient of the output one step late": (
        "dy = load(p.d_y + at + i);", "dy = t + 1 < p.T ? load(p.d_y + at + p.H * N + i) : acc(0);", "T9 typical", "d_x", "y"),
    "E88: gated read-out kept where backward expects the ungated": (
        "p.read[at + i] = next[i];", "p.read[at + i] = next[i] * silu_of(load(p.gate + at + i));", "T9 typical", "d_gate", "y d_x"),
    "E88: slot overwritten by the read-out": (
        "p.slots[at + i] = s[i];", "p.slots[at + i] = next[i];", "T9 typical", "d_x", "y s_last"),
    "E88: final state returned as the first": (
        "p.s_last[row * N + i] = s[i];", "p.s_last[row * N + i] = p.s0[row * N + i];", "T9 typical", "s_last", "y d_x"),
    "E89: backward replays another recurrence": (
        "step(p, at, h, lambda, before, after);",
        "step(p, at, h, acc(0), before, after); for (int i = 0; i < N; ++i) after[i] += lambda * before[i];",
        "T9 typical", "d_x", "y s_last"),
    "E2: every slot reads the first one's input": (
        "const int64_t at = place(p, b, t, h);\n    const acc lambda = p.decay[at / N];\n    step",
        "const int64_t at = place(p, b, t, h);\n    const acc lambda = p.decay[at / N - h];\n    step", "T9 typical", "y", ""),
    "GRU: an index that is right for one row only": (
        "before[i] = p.slots[at + i];", "before[i] = p.slots[at - b * p.T * p.H * N + i];", "T9 typical", "d_x", "y"),
    "decay in bf16": (
        "const acc lambda = p.decay[at / N];\n    step", f"const acc lambda = {LOW.format('p.decay[at / N]')};\n    step",
        "T9 typical", "y", ""),
    "weight gradient kept in bf16 from step to step": (
        "dW[i][j] += pre[i] * before[j];", f"dW[i][j] = {LOW.format('dW[i][j] + pre[i] * before[j]')};", "T9 typical", "d_W", "y d_x"),
    "batch and time mixed up": (
        "store(p.y + at + i,", "store(p.y + ((t * p.B + b) * p.H + h) * N + i,", "T9 typical", "y", "s_last d_x"),
}  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def _truths_once(tmp_path_factory):
    """Truths follow from the reference, which no mistake here touches: each is established once for all of them, as --watch does."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(remembered, "folder", tmp_path_factory.mktemp("truths"))
        yield


def patch(text, old, new):
    """Return a text with its one occurrence of a passage replaced; fails where there is none, or more."""
    assert text.count(old) == 1, f"{old!r} occurs {text.count(old)} times"
    return text.replace(old, new)


def plan_of(name="Cell"):
    return Plan(Request(registry().resolve(name), "cpu"))


@pytest.mark.parametrize("bug", PATCHES)
def test_a_historic_mistake_is_rejected_in_the_tensor_that_is_wrong(cell, bug):
    old, new, case, tensor, right = PATCHES[bug]
    path = cell / f"{cell.name}.cu.cc"
    path.write_text(patch(path.read_text(), old, new))
    plan = plan_of()
    check = plan.run(plan.named(f"float32 B3 {case}"))
    wrong = {row.tensor for row in check.rows if not row.ok}
    assert not check.ok and tensor in wrong and not wrong & set(right.split()), (check.message, wrong)


def test_the_cell_without_a_mistake_passes_everything(cell):
    plan = plan_of()
    todo = [t for t in plan.tasks() if t.case is None or t.case.dtype == "float32"]
    failed = [(c.id, c.message, c.worst) for c in map(plan.run, todo) if not c.ok]
    assert failed == []


@pytest.mark.parametrize(
    ("bug", "blind"),
    [
        ("GRU: an index that is right for one row only", "float32 B1 T9 typical"),
        ("E79: no gradient where the state is zero", "float32 B3 T9 typical"),
        (
            "E75: a size without a branch of its own falls through and leaves its memory unwritten",
            "float32 B3 T9 H5 typical",
        ),
    ],
)
def test_a_case_that_cannot_see_a_mistake_passes_it_which_is_why_there_are_others(cell, bug, blind):
    path = cell / f"{cell.name}.cu.cc"
    path.write_text(patch(path.read_text(), *PATCHES[bug][:2]))
    plan = plan_of()
    checks = [plan.run(t) for t in plan.tasks() if t.kind == "case" and t.case.dtype == "float32"]
    assert any(not c.ok for c in checks) and plan.run(plan.named(blind)).ok


ORDERS = {
    "backwards": (
        "for (int j = 0; j < N; ++j) sum += p.W[(h * N + i) * N + j] * s[j];",
        "for (int j = N - 1; j >= 0; --j) sum += p.W[(h * N + i) * N + j] * s[j];",
    ),
    "in halves, products first": (
        "for (int j = 0; j < N; ++j) sum += p.W[(h * N + i) * N + j] * s[j];\n    next[i] = tanh_of(lambda * s[i] + sum + load(p.x + at + i));",
        "acc odd = 0;\n    for (int j = 0; j < N; ++j) (j % 2 ? odd : sum) += s[j] * p.W[(h * N + i) * N + j];\n"
        "    next[i] = tanh_of((load(p.x + at + i) + sum) + (odd + lambda * s[i]));",
    ),
}
SEEDS, EACH = 1000, 63


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_a_right_kernel_in_another_summation_order_passes_a_thousand_seeds(cell, dtype):
    """Heads do not meet, so that one run over many of them is as many seeds; each is judged as if it were alone."""
    path, text = cell / f"{cell.name}.cu.cc", (cell / f"{cell.name}.cu.cc").read_text()
    axes = {"x": 2, "decay": 2, "gate": 2, "W": 0, "s0": 1, "y": 2, "s_last": 1}
    seeds, worst, results = 0, 0.0, set()
    for order, (old, new) in ORDERS.items():
        path.write_text(patch(text, old, new))
        plan, reference = plan_of(), plan_of().reference
        library, toy = Compiled(plan.kernel, plan.constants), SimpleNamespace(head_axis=axes)
        for T in (1, 3, 9, 17):
            for draw in ("typical", "saturated"):
                case = cases.Case(dtype, (("B", 2), ("T", T), ("H", EACH)), draw)
                known = remembered.truth(plan.spec, truth.draw(plan.kernel, reference, plan.constants, case, T))
                got = run(library, known.problem)
                results.add((T, draw, float(got["s_last"].double().sum())))
                for h in range(EACH):
                    rows = head(known, got, toy, h)
                    seeds += 1
                    worst = max(worst, *(row.ratio for row in rows))
                    assert all(row.ok for row in rows), (order, T, draw, h, [r for r in rows if not r.ok])
    assert seeds >= SEEDS and worst > 0.02
    assert len(results) > 8, "the orders give the same bits: nothing was shown"


@pytest.mark.parametrize("name", ["E42", "E1"])
def test_e4_weight_gradient_operands_swapped_in_the_dense_family(name, monkeypatch):
    """The product over all rows is torch's; its operands swapped give a gradient of the same norm."""
    plan = plan_of(name)
    right = plan.reference.weight_gradients

    def swapped(t):
        return {n: g.mT.contiguous() if n == "d_W" else g for n, g in right(t).items()}

    monkeypatch.setattr(plan.reference, "weight_gradients", swapped)
    check = plan.run(plan.named("float32 T9 typical"))
    assert {row.tensor for row in check.rows if not row.ok} == {"d_W"}


def test_a_weight_gradient_summed_in_bf16_over_steps_in_the_dense_family(monkeypatch):
    plan = plan_of("E36")
    right = plan.reference.weight_gradients

    def low(t):
        total = torch.zeros_like(right(t)["d_W"], dtype=torch.bfloat16)
        for step in range(t["h"].shape[1]):
            former = t["h0"] if step == 0 else t["h"][:, step - 1]
            total = (total.float() + (t["d_wx"][:, step].mT.float() @ former.float())).to(torch.bfloat16)
        return {"d_W": total.to(t["d_wx"].dtype)}

    monkeypatch.setattr(plan.reference, "weight_gradients", low)
    check = plan.run(plan.named("float32 T9 typical"))
    assert {row.tensor for row in check.rows if not row.ok} == {"d_W"}
