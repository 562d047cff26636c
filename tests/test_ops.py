"""The op, its autograd and the guarded calls, on a toy kernel compiled for the host."""

from pathlib import Path

import pytest
import torch

from elmanctl import launch, ops
from elmanctl.errors import CheckFailed
from elmanctl.plugins.discovery import load_folder
from elmanctl.tensors import ArgumentError

TOY = Path(__file__).parent / "toy" / "leaky"


@pytest.fixture(scope="module")
def kernel():
    load_folder(TOY)
    import elmanctl_variants.leaky.binding as binding

    return binding.kernel


def draw(dtype, gain, B=2, T=5, D=3):
    torch.manual_seed(0)
    acc = torch.float64 if dtype == torch.float64 else torch.float32
    tensors = {
        "x": torch.randn(B, T, D, dtype=dtype),
        "a": torch.rand(D, dtype=acc),
        "h0": torch.randn(B, D, dtype=acc),
    }
    if gain:
        tensors["gain"] = torch.randn(D, dtype=acc)
    return {name: t.requires_grad_() for name, t in tensors.items()}


@pytest.mark.parametrize("gain", [0, 1])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_host_kernel_and_reference_agree_in_value_and_gradient(kernel, dtype, gain):
    results = {}
    for backend in ("reference", "host"):
        inputs = draw(dtype, gain)
        with ops.using(backend), ops_guard(backend):
            out = ops.recurrence(kernel, inputs, {"GAIN": gain})
            (out["y"].double().sin().sum() + out["h_last"].double().cos().sum()).backward()
        results[backend] = [*out.values(), *(t.grad for t in inputs.values())]
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 3e-2}[dtype]
    for truth, got in zip(results["reference"], results["host"], strict=True):
        assert torch.allclose(truth.double(), got.double(), rtol=tolerance, atol=tolerance)


def ops_guard(backend):
    import contextlib

    return launch.guarded() if backend == "host" else contextlib.nullcontext()


def test_cpu_tensors_run_the_reference_unless_forced(kernel, monkeypatch):
    called = []
    monkeypatch.setattr(ops, "run_forward", lambda *a: called.append(a))
    ops.recurrence(kernel, draw(torch.float32, 0), {"GAIN": 0})
    assert not called


def test_missing_output_gradients_count_as_zero(kernel):
    inputs = draw(torch.float64, 0)
    with ops.using("host"):
        ops.recurrence(kernel, inputs, {"GAIN": 0})["h_last"].sum().backward()
    powers = inputs["a"].detach() ** torch.arange(4, -1, -1, dtype=torch.float64)[:, None]
    assert torch.allclose(inputs["x"].grad, powers.expand(2, -1, -1))


def test_op_passes_opcheck(kernel):
    call = ops.register(kernel, {"GAIN": 1})
    with ops.using("host"):
        torch.library.opcheck(torch.ops.elmanctl.recurrence.default, (call, list(draw(torch.float64, 1).values())))


def test_mixed_compute_dtypes_are_refused(kernel):
    inputs = draw(torch.float32, 0)
    inputs["x"] = inputs["x"].detach().double()
    out = ops.recurrence(kernel, inputs, {"GAIN": 0})
    assert out["h_last"].dtype == torch.float64  # the only compute tensor decides; accumulators follow it
    with pytest.raises(ArgumentError, match="cannot take tensors on cpu"), ops.using("cuda"):
        ops.recurrence(kernel, inputs, {"GAIN": 0})


@pytest.mark.parametrize("written", [1, -1])  # all bits of -1 are ones: of a float a NaN, which marks a place as absent
def test_a_write_outside_a_tensor_is_found(kernel, written):
    with launch.guarded():
        specs = kernel.output_specs
        made = launch._allocate(specs, {"B": 1, "T": 2, "D": 3}, {"GAIN": 0}, "float32", "cpu")
        made["y"].as_strided((1,), (1,), made["y"].storage_offset() + made["y"].numel()).view(torch.int32).fill_(
            written
        )
        with pytest.raises(CheckFailed, match=r"wrote outside y \[B, T, D\]"):
            launch._check_guards("toy forward")


def test_unsupported_dtype_is_refused_before_anything_runs(kernel):
    inputs = {name: t.detach().half() if name == "x" else t for name, t in draw(torch.float32, 0).items()}
    with pytest.raises(ArgumentError, match="no kernel computes in float16"):
        launch.run_forward(kernel, {"GAIN": 0}, inputs)


@pytest.mark.parametrize("gain", [0, 1])
def test_a_recurrence_compiles_to_one_graph_with_its_gradient(kernel, gain):
    def results(function):
        inputs = draw(torch.float32, gain)
        with ops.using("host"):
            out = function(inputs)
            (out["y"].sin().sum() + out["h_last"].cos().sum()).backward()
        return [*(t.detach() for t in out.values()), *(t.grad for t in inputs.values())]

    def plain(inputs):
        return ops.recurrence(kernel, inputs, {"GAIN": gain})

    torch.compiler.reset()
    compiled = torch.compile(plain, fullgraph=True, dynamic=False, backend="aot_eager")
    assert all(torch.equal(a, b) for a, b in zip(results(plain), results(compiled), strict=True))
