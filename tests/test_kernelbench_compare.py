"""Recurrences of one run beside a yardstick: what a row keeps of its kernel, the table's figures, and the names of a run."""

from pathlib import Path

import pytest
import torch

from elmanctl import launch
from elmanctl.commands import bench_kernels
from elmanctl.errors import UserError
from elmanctl.kernelbench import ahead, compare, inputs, run, shapes, show
from elmanctl.kernelbench.clock import Timing
from elmanctl.plugins.registry import registry

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "state", "products", "exchanges"),
    [
        ("E1", 3 * 64, 1, 1),
        ("E4", 3 * 64, 2, 2),  # two thin products, of which the second waits for the first
        ("E63:form=c", 3 * 64, 3, 1),
        ("cudagru:expansion=1", 3 * 64, 3, 2),  # two rows of W and one of N
        ("cudalstm:expansion=1", 2 * 3 * 64, 4, 1),  # h and c
        ("E29an8", 9 * 3 * 64, 2, 2),  # two rows of W; the product, then sums over all channels
        ("E2s8", 8 * 3 * 64, 1, 1),
        ("E2s8:diagonal=true", 8 * 3 * 64, 0, 0),
        ("E34", 3 * 64, 0, 0),
        ("E70n8", 3 * 64, 0, 0),
        ("E79n8", 2 * 3 * 64, 0, 0),
        ("E88h2n8:expansion=2", 3 * 2 * 8 * 16, 0, 0),
    ],
)
def test_a_row_knows_the_state_and_what_a_step_waits_for(name, state, products, exchanges):
    facts = compare.facts(inputs.capture(registry().resolve(name), 64, 3, 5, CPU, 0))
    assert (facts["state"], facts["products"], facts["exchanges"]) == (state, products, exchanges)


@pytest.fixture
def timed(monkeypatch):
    """Return a function that "times" models on the CPU: us of a pass by model, the same for both directions but doubled."""

    def time_all(times: dict[str, float]) -> list[run.Row]:
        monkeypatch.setattr(run, "captured", lambda call, count: call(0))
        monkeypatch.setattr(run, "rotations", lambda size, device: 1)
        found = []
        for (spec, shape), us in zip(
            bench_kernels.wanted(list(times), shapes.Shape(3, 5, 64)), times.values(), strict=True
        ):
            both = iter((us, 2 * us))
            monkeypatch.setattr(run, "interleaved", lambda g, n, s: [Timing(*3 * (next(both),))] * len(g))  # noqa: B023
            found += run.rows(spec, [shape], CPU, "vouched", alone=True)
        return found

    return time_all


def test_products_exchanges_and_elements_are_compared_at_equal_sizes(timed):
    rows = timed({"E1": 10, "E4": 18, "cudagru": 40, "cudagru@dim=32": 24, "E1@dim=128": 20, "E34": 5})
    assert [r.contender for r in rows] == [run.OWN] * 6, "no libraries where models are compared with each other"
    lines = [dict(zip(compare.COLUMNS, line, strict=True)) for line in compare.cells(rows, "E1", copy_gb_s=1e3)]
    assert [line["times with backward"] for line in lines] == ["1.00", "1.80", "2.00", "2.40", "1.00", "0.50"]
    assert [line["a product"] for line in lines] == ["1.00", "0.90", "0.67", "0.80", "1.00", ""]
    assert [line["an exchange"] for line in lines] == ["1.00", "0.90", "1.00", "1.20", "1.00", ""]
    assert {line["ps/element"] for line in lines} == {""} and lines[0]["us/step"] == "2.000"
    call = inputs.capture(registry().resolve("E34"), 64, 3, 5, CPU, 0)
    assert lines[-1]["of the copy rate"] == f"{inputs.least_bytes(call, both=True) / 10 / 1e6:.0%}"


def test_a_matrix_state_is_compared_with_as_many_states_of_as_many_keys(timed):
    rows = timed({"E70n8": 12, "E88h1n8": 10, "E88h2n8": 20, "E79n8": 30, "E75h2n16": 50})
    lines = [dict(zip(compare.COLUMNS, line, strict=True)) for line in compare.cells(rows, "E88", copy_gb_s=1e3)]
    assert [line["times "] for line in lines] == ["1.20", "1.00", "1.00", "1.50", ""], (
        "E79 has two matrices; no E88 here has n=16"
    )
    assert lines[0]["ps/element"] == f"{24 / 5 * 1e6 / (3 * 64):.2f}" and lines[0]["state"] == "1 of 64"
    assert {line["products"] for line in lines} == {""}


def test_a_kernel_of_other_dimensions_is_a_line_too():
    """A plugin's may declare neither D nor H and N, and no state."""

    def row(variant, us, **sizes):
        return run.Row(
            model=variant,
            variant=variant,
            contender=run.OWN,
            B=2,
            T=4,
            dim=8,
            forward=(us,) * 3,
            both=(us,) * 3,
            sizes={"B": 2, "T": 4} | sizes,
        )

    rows = [row("A", 4, C=3), row("B", 8, C=3), row("B", 8, C=5), row("B", 8, H=2, N=4), row("B", 8, D=3)]
    lines = [dict(zip(compare.COLUMNS, line, strict=True)) for line in compare.cells(rows, "A", copy_gb_s=1e3)]
    assert [line["times"] for line in lines] == ["1.00", "2.00", "", "", ""]
    assert {line["ps/element"] for line in lines} == {""}


def test_pictures_are_drawn_around_the_sizes_that_a_name_carries():
    todo = bench_kernels.wanted(["E1@T=1024", "E1", "E33"], shapes.Shape(32, 512, 64))
    rows = [
        run.Row(model="E1", contender=run.OWN, B=B, T=T, dim=64, forward=(1, 1, 1), both=(2, 2, 2))
        for B in (8, 32)
        for T in (512, 1024)
    ]
    found = bench_kernels.pictures(rows, todo)
    assert set(found) == {"E1", "E33"} and not found["E33"]
    assert set(found["E1"]) == {"B_T=512_dim=64", "B_T=1024_dim=64", "T_B=32_dim=64"}


def test_the_page_has_the_table_only_beside_a_yardstick(timed):
    common = {"device_name": "a GPU", "started": "2026-01-01", "base": "", "versions": {"torch": "2"}}
    rows = timed({"E1": 10, "E33": 11})
    record = show.Record(**common, ceilings={"copy_gb_s": 400.0, "bf16_tflop_s": 800.0}, rows=rows, against="E1")
    page = show.markdown(record)
    assert "| E33 | 3 | 5 | 64 | 2.200 | 4.400 |" in page and "Beside E1 of this run" in page
    assert "Beside" not in show.markdown(show.Record(**common, ceilings=record.ceilings, rows=rows))


def test_names_of_a_run_carry_sizes_of_their_own():
    base = shapes.Shape(4, 5, 64)
    found = bench_kernels.wanted(["E1", "E1@dim=32,B=2", "E1"], base)
    assert [(spec.name, shape) for spec, shape in found] == [("E1", base), ("E1", shapes.Shape(2, 5, 32))]
    assert {shape for _, shape in bench_kernels.wanted([], base)} == {base}
    with pytest.raises(UserError, match="'width=3' is none of"):
        bench_kernels.wanted(["E1@width=3"], base)


def test_the_lists_for_the_speed_tables_have_every_kernel_and_their_yardsticks():
    place, found = Path(__file__).parent.parent / "bench", set()
    for file, yardstick in (("kernels_vector.txt", "E1"), ("kernels_matrix.txt", "E88")):
        todo = bench_kernels.wanted((place / file).read_text().split(), shapes.Shape())
        for spec, shape in todo:
            spec.check(shape.dim, relaxed=("dim",))
        here = {spec.variant.name for spec, _ in todo}
        assert yardstick in here
        found |= here
    assert found == {v.name for v in registry().variants().values() if v.has_kernel}


def test_kernels_are_compiled_ahead_for_the_sizes_of_the_call_and_what_cannot_be_says_so_later(monkeypatch):
    asked = []
    monkeypatch.setattr(ahead.build, "build", lambda *request: asked.append(request))
    todo = [(registry().resolve(name), shapes.Shape(5, 7, dim)) for name, dim in (("E1", 1), ("E4", 32), ("E2s8", 32))]
    ahead.compile_all(todo, CPU, jobs=2)
    monkeypatch.undo()
    for (kernel, constants, dtype, target), (spec, shape) in zip(
        sorted(asked, key=lambda r: r[0].package, reverse=True), todo[1:], strict=True
    ):
        call = inputs.capture(spec, shape.dim, shape.B, shape.T, CPU, 0)
        like = torch.empty(0)
        assert (kernel, dtype, target) == (call.kernel, "bfloat16", "host")
        assert constants == launch.build_constants(kernel, call.constants, call.sizes, dtype, like)
