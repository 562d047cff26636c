"""The matrix-state family on the host: outputs, last state and every gradient of its kernels against autograd through the reference."""

import pytest
import torch

from elmanctl import launch, ops
from elmanctl.errors import UserError
from elmanctl.launch import guarded, run_forward
from elmanctl.plugins.registry import registry
from elmanctl.tensors import ACCUMULATOR

# Relative error in the Frobenius norm. fp64 and fp32: the unit roundoff times the square root of the terms behind a value (up to
# about 1000, times a few for the chain of steps). bf16: half a spacing of 2^-8, what rounding an output to bf16 costs at most.
LIMITS = {"float64": 1e-14, "float32": 5e-6, "bfloat16": 2.0**-8}


def relative_errors(name, dtype, T, draw="typical", B=2, seed=0):
    """Return {tensor: error} of the host kernel against the reference in fp64 on the same rounded inputs."""
    spec = registry().resolve(name)
    binding, reference = spec.variant.module("binding"), spec.variant.module("reference")
    kernel, constants = binding.kernel, binding.constants(spec.config)
    sizes = {**constants, "B": B, "T": T, "H": getattr(spec.config, "n_heads", 3)}
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    present = [s for s in kernel.input_specs if s.present(constants)]
    drawn = reference.draw(draw, {s.name: s.shape(sizes) for s in present}, constants, randn)
    inputs = {s.name: drawn[s.name].to(getattr(torch, s.dtype(dtype))) for s in present}
    upstream = {s.name: randn(*s.shape(sizes)).to(getattr(torch, s.dtype(dtype))) for s in kernel.output_specs}
    results = {}
    for backend in ("reference", "host"):
        mine = {n: (t.double() if backend == "reference" else t).clone().requires_grad_() for n, t in inputs.items()}
        with ops.using(backend), guarded():
            out = ops.recurrence(kernel, mine, constants)
            torch.autograd.backward([*out.values()], [upstream[n].to(o.dtype) for n, o in out.items()])
        results[backend] = out | {f"d_{n}": t.grad for n, t in mine.items()}
    with torch.no_grad():
        return {n: float((results["host"][n].double() - t).norm() / t.norm()) for n, t in results["reference"].items()}


def check(name, dtype, T, **more):
    errors = relative_errors(name, dtype, T, **more)
    spec = registry().resolve(name)
    kinds = {s.name: s.kind for s in (*spec.variant.kernel().input_specs, *spec.variant.kernel().output_specs)}
    for tensor, error in errors.items():
        stored = dtype if kinds[tensor.removeprefix("d_")] == "scalar" else ACCUMULATOR[dtype]
        assert error <= LIMITS[stored], (name, dtype, T, more, errors)


@pytest.mark.parametrize("name", ["E75h3n8", "E88h3n8", "E88h3n16", "E74n8:state=diagonal"])
def test_every_length_around_the_chunk(name):
    K = registry().resolve(name).variant.module("binding").constants(registry().resolve(name).config)["K"]
    for T in (1, 2, 3, K - 1, K, K + 1, 2 * K + 3):
        check(name, "float64", T)


@pytest.mark.parametrize("variant", ["E75", "E88"])
@pytest.mark.parametrize("n", [16, 24, 32])
def test_sizes(variant, n):
    check(f"{variant}h3n{n}", "float64", 19)


@pytest.mark.parametrize("n", [40, 48, 56, 64, 96, 128])
def test_large_sizes(n):
    check(f"E88h1n{n}", "float64", 10 if n <= 64 else 17, B=1)


@pytest.mark.parametrize(
    "name",
    [
        "E88h3n8:expansion=2",
        "E88h3n16:expansion=0.5,use_write_gate=true",
        "E88h3n24:expansion=3,use_gate=true",
        "E88h1n64:expansion=2",
        "E88h3n8:use_gate=true,gate_activation=sigmoid,use_write_gate=true",
        "E88h3n8:tie_kv=true,use_gate=true",
        "E88h3n8:tie_kv=true,use_silu=false,use_l2_norm=false",
        "E88h3n8:linear_state=true,decay=simple",
        "E88h3n8:linear_state=true,use_write_gate=true,use_l2_norm=true,decay=constant",
        "E88h3n8:decay=none",
    ],
)
def test_options_of_the_kernel(name):
    check(name, "float64", 5 if "use_l2_norm=false" in name else 19)


@pytest.mark.parametrize("name", ["E70n8", "E71n8", "E72in16", "E73n8", "E73rn8", "E73fn16", "E73fn8:form=plain"])
def test_steps_of_one_matrix(name):
    check(name, "float64", 19, draw="extreme")


@pytest.mark.parametrize(
    "options",
    [
        "n8:update=residual,projection=full,gate=input,nonlinearity=rms",
        "n24:update=energy_gate,nonlinearity=frobenius",
        "n8:update=ntm,gate=input,projection=tied_kvq",
        "n8:gate=retain,projection=tied_kq",
        "n16:gate=state,projection=full",
        "n16:update=retrieved_gate,state=low_rank,nonlinearity=rms",
        "n16:update=ema,state=low_rank,rank=8",
        "n40:update=energy_gate,projection=full,gate=input,nonlinearity=rms,state=diagonal",
        "n8:update=ntm,projection=tied_kq,state=diagonal",
    ],
)
def test_the_grid_around_the_delta_rule(options):
    """Options beside each other; states of several warps whose rows meet in a step; states with a step of their own."""
    check(f"E74{options}", "float64", 11, draw="extreme")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("projection=full,update=ema", "update=ema, which reads no memory. Choose projection=no_z"),
        ("projection=full,state=low_rank", "state=low_rank, whose columns are no keys"),
        ("gate=retain,update=ntm", "gate=retain with update=ntm. Choose update=delta"),
        ("gate=state,projection=full", "projection=full and n_state=64. Choose n_state=48 or less"),
        ("gate=state,projection=full,nonlinearity=rms", "nonlinearity=rms. Choose one of projection=no_z"),
        ("decay=trained", "Add update=fixed_decay"),
        ("rank=8", "Add state=low_rank"),
        ("rank=6,state=low_rank", "rank=6 is not one of 4, 8"),
    ],
)
def test_what_the_grid_does_not_have_is_refused(options, says):
    with pytest.raises(UserError, match=says):
        registry().resolve(f"E74:{options}").check(128)


@pytest.mark.parametrize("name", ["E75h3n8:linear_state=true,decay=log_space", "E79n8", "E79ibn24", "E79n40"])
def test_gates_of_rows_and_columns(name):
    """Of E79 one warp, several, and states that a chunk keeps in global memory."""
    check(name, "float64", 11, draw="extreme")


@pytest.mark.parametrize("name", ["E75h3n24", "E88h3n32"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_lower_precision(name, dtype):
    check(name, dtype, 35)


@pytest.mark.parametrize("name", ["E75h3n8", "E88h3n8:use_gate=true,use_write_gate=true"])
@pytest.mark.parametrize("draw", ["saturated", "extreme"])
def test_saturated_and_extreme_inputs(name, draw):
    check(name, "float64", 19, draw=draw)


def test_slots_hold_the_state_before_each_chunk():
    spec = registry().resolve("E88h2n8")
    binding = spec.variant.module("binding")
    constants = binding.constants(spec.config)
    K = constants["K"]
    inputs = {
        "qkv": torch.randn(1, K + 1, 48),
        "decay_logit": torch.randn(1, K + 1, 2),
        "A_log": torch.zeros(2),
        "dt_bias": torch.zeros(2),
        "s0": torch.randn(1, 2, 8, 8),
    }
    out = run_forward(binding.kernel, constants, inputs)
    first = run_forward(binding.kernel, constants, {n: t[:, :K] if t.ndim == 3 else t for n, t in inputs.items()})
    assert out["slots"].shape[2] == 2
    assert torch.equal(out["slots"][:, :, 0], inputs["s0"])
    assert torch.equal(out["slots"][:, :, 1], first["s_last"])


@pytest.mark.parametrize(
    ("name", "lengths"),
    [
        ("E73n8:save_every=1", (1, 2, 7, 8, 9, 16, 19)),
        ("E73fn24:save_every=1,form=plain", (19,)),
        ("E73rn40:save_every=1", (10,)),
    ],
)
def test_a_backward_pass_that_reads_every_state(name, lengths):
    """Tiles of one warp and two, states too large for shared memory; chunks that are whole, cut short, and alone."""
    for T in lengths:
        check(name, "float64", T, draw="saturated" if T == 19 else "typical")


def test_every_state_is_there_where_every_one_is_saved():
    spec = registry().resolve("E73n8:save_every=1")
    binding = spec.variant.module("binding")
    inputs = {"projected": torch.randn(2, 9, 3 * 4 * 8), "bias": torch.ones(3, 8), "s0": torch.randn(2, 3, 8, 8)}
    out = run_forward(binding.kernel, binding.constants(spec.config), inputs)
    eighth = run_forward(binding.kernel, binding.constants(registry().resolve("E73n8").config), inputs)
    assert out["slots"].shape[2] == 9 and eighth["slots"].shape[2] == 2
    assert torch.equal(out["slots"][:, :, ::8], eighth["slots"])
    assert torch.equal(out["y"], eighth["y"]) and torch.equal(out["s_last"], eighth["s_last"])
    for t in (1, 5):
        short = {**inputs, "projected": inputs["projected"][:, :t].contiguous()}
        assert torch.equal(
            out["slots"][:, :, t], run_forward(binding.kernel, binding.constants(spec.config), short)["s_last"]
        )
    unit = inputs["projected"].view(2, 9, 4, 3, 8)[:, :, 1]
    unit = unit * (unit.square().sum(-1, keepdim=True) + 1e-12).rsqrt()
    z = inputs["projected"].view(2, 9, 4, 3, 8)[:, :, 3] + 1
    read = torch.einsum("bhtij,bthj->bthi", out["slots"], z * unit)
    torch.testing.assert_close(out["kept"].view(2, 9, 3, 8), read, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "dtype", "T"),
    [
        ("E73n16:save_every=1", "float32", 9),
        ("E88h3n16", "float64", 1),
        ("E88h3n16", "float64", 19),
        ("E88h3n16", "bfloat16", 35),
        ("E88h3n8:use_gate=true,use_write_gate=true", "float64", 17),
        ("E88h3n24", "float64", 19),
        ("E75h3n32", "float32", 35),
        ("E75h3n16", "float64", 9),
    ],
)
def test_spread_states(name, dtype, T):
    """The plan for few states: smaller tiles, one state a block, and other producers for results than for inputs."""
    with launch.divided({"SPREAD": 1, "PACKED": 0}):
        check(name, dtype, T)
