"""Bitwise properties and halves, on a library in Python that can be made wrong."""

import torch
from toys import Delta

from elmanctl import ops
from elmanctl.verify import cases, properties, truth
from elmanctl.verify.plan import Plan, Request
from elmanctl.verify.run import run, run_case


class Fake:
    """Delta's hand-written passes as a library; `spoil(results, inputs)` may change what a pass returns."""

    def __init__(self, spoil=None):
        self.spoil = spoil or (lambda results, inputs: None)
        self.calls = 0

    def _pass(self, inputs, gradients, names):
        problem = truth.Problem(Delta.kernel, {"N": 8}, "float32", {}, Delta.forward, inputs, gradients, 0)
        results = {n: t.clone() for n, t in Delta.run(problem).items() if n in names}
        self.calls += 1
        self.spoil(results, inputs)
        return results

    def forward(self, inputs):
        y = torch.zeros(inputs["q"].shape)
        return self._pass(inputs, {"d_y": y, "d_S_last": torch.zeros_like(inputs["S0"])}, ("y", "S_last"))

    def backward(self, tensors, gradients):
        inputs = {n: tensors[n] for n in Delta.kernel.inputs}
        return self._pass(inputs, gradients, [f"d_{n}" for n in Delta.kernel.inputs])


def problem(dtype="float32"):
    case = cases.Case(dtype, (("B", 3), ("T", 9), ("H", 2)), "typical")
    return truth.draw(Delta.kernel, Delta, {"N": 8}, case, 0)


def check(name, spoil=None):
    return properties.check_property(name, Fake(spoil), problem())


def test_a_right_library_has_every_property():
    assert properties.states(Delta.kernel) == {"S0": "S_last"}
    assert properties.names(Delta.kernel, "float32", "host") == [
        "repeat", "causality", "rows", "fiber-order", "split", "tokens", "opcheck",
    ]  # fmt: skip
    assert "fiber-order" not in properties.names(Delta.kernel, "bfloat16", "device")
    for name in ("repeat", "causality", "rows", "split", "tokens"):
        assert check(name).ok, name
    case = cases.Case("float32", (("B", 3), ("T", 9), ("H", 2)), "typical")
    assert run_case(Fake(), Delta.kernel, Delta, {"N": 8}, case, 0).ok


def test_results_that_differ_between_runs_are_found():
    seen = []

    def drift(results, inputs):
        seen.append(1)
        if "d_k" in results:
            results["d_k"][0, 0, 0, 0] *= 1 + 1e-6 * len(seen)

    found = check("repeat", drift)
    assert not found.ok and found.message == "two runs differ in d_k"


def test_an_output_that_sees_later_inputs_is_found():
    def leak(results, inputs):
        if "y" in results:
            results["y"][:, 0] += 1e-3 * inputs["v"][:, -1]

    found = check("causality", leak)
    assert not found.ok and found.message.startswith("y before step 4 changes")


def test_a_gradient_that_sees_earlier_output_gradients_is_found():
    class Leaky(Fake):
        def backward(self, tensors, gradients):
            results = super().backward(tensors, gradients)
            results["d_v"][:, -1] += 1e-3 * gradients["d_y"][:, 0]
            return results

    found = properties.check_property("causality", Leaky(), problem())
    assert not found.ok and found.message.startswith("d_v from step 4 on changes")


def test_rows_that_meet_are_found():
    def mix(results, inputs):
        if "S_last" in results:
            results["S_last"][1] += 1e-6 * inputs["k"].mean()

    found = check("rows", mix)
    assert not found.ok and found.message.startswith("S_last of rows 1 and up")


def test_a_state_that_is_not_carried_is_found_by_the_halves_alone():
    """A kernel that starts at zero whenever the sequence is short passes the whole, not its halves."""

    class Forgetful(Fake):
        def forward(self, inputs):
            short = inputs["q"].shape[1] < 9
            return super().forward({**inputs, "S0": inputs["S0"] * (0 if short else 1)})

    found = properties.check_property("split", Forgetful(), problem())
    assert not found.ok and "S_last" in {row.tensor for row in found.rows if not row.ok}
    p = problem()
    assert all(row.ok for row in truth.establish(p).judge(run(Forgetful(), p)))


def test_a_missing_result_a_wrong_shape_and_a_wrong_dtype_fail():
    p = problem()
    known = truth.establish(p)
    got = run(Fake(), p)
    for name, value, said in (
        ("d_q", None, "missing"),
        ("y", got["y"][:, :5], "shape [3, 5, 2, 8] instead of [3, 9, 2, 8]"),
        ("d_v", got["d_v"].double(), "dtype torch.float64 instead of float32"),
    ):
        changed = {n: t for n, t in {**got, name: value}.items() if t is not None}
        row = {r.tensor: r for r in known.judge(changed)}[name]
        assert not row.ok and row.group == said


def test_a_carry_that_is_lost_between_single_steps_alone_is_found_token_by_token():
    class Forgetful(Fake):
        """Drops the last state's gradient in a sequence of one step, where its loop over chunks does not run."""

        def backward(self, tensors, gradients):
            alone = tensors["q"].shape[1] == 1
            return super().backward(tensors, {**gradients, "d_S_last": gradients["d_S_last"] * (0 if alone else 1)})

    found = properties.check_property("tokens", Forgetful(), problem())
    assert not found.ok and "d_S0" in {row.tensor for row in found.rows if not row.ok}
    assert properties.check_property("split", Forgetful(), problem()).ok


def test_pieces_join_at_any_cuts():
    p = problem()
    known = truth.establish(p)
    for cuts in ([], [1], [8], [2, 3, 7]):
        assert all(row.ok for row in known.judge(properties.pieces(Fake(), p, cuts))), cuts


def test_an_op_whose_fake_gives_another_shape_fails_opcheck(spec, monkeypatch):
    plan = Plan(Request(spec, "cpu"))
    task = plan.named("float32 opcheck")
    assert plan.run(task).ok
    monkeypatch.setattr(ops, "_written_forward", lambda kernel, constants: kernel.output_specs[::-1])
    found = plan.run(task)
    assert not found.ok and "test_" in found.message
