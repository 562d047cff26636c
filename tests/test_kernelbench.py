"""The parts of `bench --kernels` that need no GPU: what is timed, which shapes, refusals, tables and pictures."""

import time

import pytest
import torch

from elmanctl.errors import UserError
from elmanctl.kernelbench import clock, inputs, rivals, run, shapes, show
from elmanctl.kernelbench.clock import Timing, summary
from elmanctl.plugins.registry import registry
from elmanctl.verify import receipt

CPU = torch.device("cpu")


def spec(name: str):
    return registry().resolve(name)


@pytest.fixture
def call():
    return inputs.capture(spec("E1"), 32, 3, 5, CPU, seed=0)


def test_the_call_is_the_layers_own(call):
    assert {k: call.sizes[k] for k in ("B", "T", "D")} == {"B": 3, "T": 5, "D": 32}
    assert set(call.inputs) == {"wx", "z", "W", "h0"}
    assert call.inputs["wx"].std() > 0.01, "noise has gone through the layer's projections"
    reference = spec("E1").variant.module("reference").forward(**call.inputs, constants=call.constants)
    torch.testing.assert_close(call.forward()["y"], reference[0])


def test_both_gives_the_gradient_of_every_input(call):
    upstream = call.upstream(call.forward(), seed=1)
    assert set(upstream) == {"d_y", "d_h_last"}
    gradients = call.both(upstream)
    assert set(gradients) == {"d_wx", "d_z", "d_W", "d_h0"}
    assert all(g.abs().sum() > 0 for g in gradients.values())


def test_least_bytes_counts_each_declared_tensor_once(call):
    position, weight, state = 4 * 3 * 5 * 32, 4 * 32 * 32, 4 * 3 * 32
    forward = 2 * position + weight + state + position + state + position  # wx z W h0, y h_last, h
    assert inputs.least_bytes(call, both=False) == forward
    saved_and_inputs = 2 * position + weight + state + position
    gradients = (
        position + state + 2 * position + state + position
    )  # d_y d_h_last, d_wx d_z d_h0, former; torch makes d_W
    assert inputs.least_bytes(call, both=True) == forward + saved_and_inputs + gradients


def test_width_matters_only_to_a_kernel_that_sees_it():
    base = shapes.Shape(B=2, T=8, dim=64)
    assert run.sees_width(spec("E1"), base, CPU) and not run.sees_width(spec("E88h2n16"), base, CPU)
    assert [s.dim for s in shapes.chosen(base, ["dim"], True)] == [64, 768, 1536, 2048]
    assert shapes.chosen(base, ["dim"], False) == [base]


def test_shapes_are_read_and_refused():
    assert shapes.parse_shape(None) == shapes.Shape(32, 512, 1536)
    assert shapes.parse_shape("T=4K, b=4") == shapes.Shape(4, 4000, 1536)
    for given, part in (("Q=3", "Q=3"), ("", ""), ("T=4,", "")):
        with pytest.raises(UserError, match=f"'{part}' is none of"):
            shapes.parse_shape(given)
    with pytest.raises(UserError, match="--sweep H.*or all of them: all"):
        shapes.parse_sweeps("T,H")
    assert shapes.parse_sweeps("T,B,T") == ["T", "B"] and shapes.parse_sweeps("all") == ["all"]


def test_a_sweep_over_time_keeps_the_positions():
    found = shapes.sweep(shapes.Shape(B=32, T=512, dim=64), "T")
    assert [s.T for s in found] == [512, 2048, 8192, 32768]
    assert {s.B * s.T for s in found} == {32768}
    assert [s.B for s in shapes.sweep(shapes.Shape(B=16), "B")] == [8, 16, 32, 64, 128]


def test_all_sizes_are_a_grid_where_the_width_matters_and_two_sweeps_where_not():
    grid = shapes.chosen(shapes.Shape(), ["all"], True)
    assert len(grid) == 24 and grid[0] == shapes.Shape() and grid[1].B * grid[1].T < grid[-1].B * grid[-1].T
    assert {(s.T, s.B, s.dim) for s in grid} == {
        (t, b, d) for t in (512, 8192) for b in (8, 32, 64, 128) for d in (768, 1536, 2048)
    }
    found = shapes.chosen(shapes.Shape(), ["all"], False)
    assert {s.dim for s in found} == {1536} and {(s.B, s.T) for s in found} == {
        (8, 512), (32, 512), (64, 512), (128, 512), (16, 2048), (4, 8192), (1, 32768)
    }  # fmt: skip


def test_rounds_fit_the_time():
    assert clock.rounds_within(60, 0.1) == clock.ROUNDS == clock.rounds_within(float("inf"), 0.0)
    assert clock.rounds_within(1, 0.1) == 10 and clock.rounds_within(0, 0.1) == clock.LEAST_ROUNDS


def test_sets_of_inputs_are_together_larger_than_the_cache_and_one_alone_where_it_is_far_larger(monkeypatch):
    properties = type("Properties", (), {"L2_cache_size": 50})()
    monkeypatch.setattr(clock.torch.cuda, "get_device_properties", lambda device: properties)
    assert [clock.rotations(size, CPU) for size in (1, 30, 75, 150, 799, 800)] == [16, 5, 2, 2, 2, 1]


@pytest.fixture
def host(monkeypatch):
    """Let passes run once where a GPU would capture them; each takes 2 us forward and 6 us in both directions."""
    monkeypatch.setattr(run, "captured", lambda call, count: [call(number) for number in range(count)])
    monkeypatch.setattr(run, "rotations", lambda size, device: 2)
    monkeypatch.setattr(run, "interleaved", lambda graphs, count, seconds: [Timing(2.0, 2.0, 2.0)] * len(graphs))


def test_what_cannot_be_timed_is_a_row_and_the_others_are_timed(monkeypatch, host, call):
    def breaks_when_captured(sizes, sets):
        runs = []

        def one(number, both):
            runs.append(both)
            if len(runs) > 2:
                raise RuntimeError("operation not permitted when stream is capturing")

        return one

    def slow(sizes, sets):
        return lambda number, both: time.sleep(0.05)

    def works(sizes, sets):
        return lambda number, both: None

    monkeypatch.setattr(rivals, "RIVALS", {f.__name__: f for f in (breaks_when_captured, slow, works)})
    monkeypatch.setitem(call.kernel.__dict__, "rivals", ("breaks_when_captured", "slow", "works"))
    wanted = [shapes.Shape(3, 5, 32), shapes.Shape(3, 5, 33), shapes.Shape(2, 5, 32)]
    found = list(run.rows(spec("E1"), wanted, CPU, "vouched", seconds=2.0))
    first = {r.contender: r for r in found if r.B == 3 and r.dim == 32}
    assert first["breaks_when_captured"].note == "RuntimeError: operation not permitted when stream is capturing"
    assert first["slow"].note.startswith("timing it takes 1 s, more than its share")
    assert [name for name, r in first.items() if r.step] == [run.OWN, "works"] and first[run.OWN].receipt == "vouched"
    (refused,) = [r for r in found if r.dim == 33]
    assert refused.contender == run.OWN and "33" in refused.note, "a width that the rules forbid"
    assert {run.OWN, "works"} <= {r.contender for r in found if r.B == 2 and r.step}


def test_a_rival_that_no_graph_holds_is_launched_and_its_row_says_so(monkeypatch, host, call):
    ran = []
    monkeypatch.setattr(clock.torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(rivals, "LAUNCHED", ("waits",))
    monkeypatch.setattr(
        rivals, "RIVALS", {"waits": lambda sizes, sets: lambda number, both: ran.append((number, both))}
    )
    monkeypatch.setitem(call.kernel.__dict__, "rivals", ("waits",))
    monkeypatch.setattr(
        run, "interleaved", lambda graphs, count, seconds: [g.replay() or Timing(2.0, 2.0, 2.0) for g in graphs[1:] * 2]
    )
    _, row = run.rows(spec("E1"), [shapes.Shape(3, 5, 32)], CPU, "vouched")
    assert row.contender == "waits" and row.step and row.note == "launched: no graph holds it"
    assert show._row(row, None, {})[-1] == row.note
    assert ran[-2:] == [(0, True), (1, True)] and ran.count((1, False)) == 4, "two runs before, and each replay"


def test_shapes_that_come_too_late_are_named(host):
    found = list(run.rows(spec("E1"), [shapes.Shape(3, 5, 32)], CPU, "vouched", seconds=0.0))
    assert [r.note for r in found] == ["not reached in 0 s"]


def test_quantiles_of_samples():
    timing = summary([float(n) for n in range(1, 12)])
    assert timing == Timing(6.0, 2.0, 10.0)


def test_only_verified_kernels_are_timed(monkeypatch):
    monkeypatch.setattr(receipt, "find", lambda spec, target: None)
    with pytest.raises(
        UserError, match=r"No receipt for sm_90a vouches for E1 \(.*Run elmanctl verify E1 --device cuda\."
    ):
        receipt.require([spec("E1")], "sm_90a")


def test_a_rival_that_cannot_run_is_a_row_with_its_reason(monkeypatch, call):
    def refuses(sizes, sets):
        raise RuntimeError("D must be 64\nand so on")

    def lacks(sizes, sets):
        raise rivals.Absent("a package is not installed")

    def works(sizes, sets):
        return lambda number, both: torch.zeros(1)

    monkeypatch.setattr(rivals, "RIVALS", {"refuses": refuses, "lacks": lacks, "works": works})
    monkeypatch.setitem(call.kernel.__dict__, "rivals", ("refuses", "lacks", "works"))
    passes, absent = run.contenders(spec("E1"), call, shapes.Shape(3, 5, 32), 2, 0, CPU)
    assert list(passes) == [run.OWN, "works"]
    assert absent == {"refuses": "RuntimeError: D must be 64", "lacks": "a package is not installed"}
    assert set(passes[run.OWN](1, True)) == {"d_wx", "d_z", "d_W", "d_h0"}


def test_an_error_that_ends_the_use_of_the_gpu_names_who_made_it(monkeypatch, host, call):
    """As FlashRNN's at B=128, T=8192, D=2048: every later call of the process repeats it."""

    def broken():
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(run.torch.cuda, "synchronize", broken)
    with pytest.raises(run.ContextLost, match=r"^one at B=3 left an error .*an illegal memory access"):
        run.check_context(torch.device("cuda"), "one at B=3")
    run.check_context(CPU, "one")

    def breaks(sizes, sets):
        raise RuntimeError("CUDA error")

    monkeypatch.setattr(rivals, "RIVALS", {"breaks": breaks})
    monkeypatch.setitem(call.kernel.__dict__, "rivals", ("breaks",))
    check = run.check_context
    monkeypatch.setattr(run, "check_context", lambda device, after: check(torch.device("cuda"), after))
    with pytest.raises(run.ContextLost, match="^breaks at B=3 T=5 dim=32 left"):
        list(run.rows(spec("E1"), [shapes.Shape(3, 5, 32)], CPU, "vouched"))


def test_every_rival_that_a_kernel_names_exists():
    for variant in registry().variants().values():
        if variant.has_kernel:
            kernel = variant.kernel()
            assert set(kernel.rivals) <= set(rivals.RIVALS), variant.name
            assert set(kernel.work) == {"forward", "backward"}, variant.name


def test_rates_are_of_declared_bytes_and_work(call):
    rates = run.own_rates(call, Timing(10.0, 9.0, 11.0))
    assert rates["gb_s"] == pytest.approx(inputs.least_bytes(call, both=True) / 10e-6 / 1e9)
    assert rates["tflop_s"] == pytest.approx(6 * 3 * 5 * 32 * 32 / 10e-6 / 1e12)


@pytest.mark.parametrize(("name", "M"), [("E75h2n8", 8), ("E70n8", 8), ("E88h2n8:expansion=2", 16)])
def test_rivals_of_a_matrix_state_find_its_sizes(name, M):
    call = inputs.capture(registry().resolve(name), 32, 2, 3, torch.device("cpu"), 0)
    heads = 1 if name.startswith("E70") else 2
    assert rivals.matrix_sizes(call.sizes) == (2, 3, heads, 8, M)
