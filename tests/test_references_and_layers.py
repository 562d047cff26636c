"""The reference of every kernel and the layer of every variant, over whatever the registry holds and over the template. Nothing is compiled.

A variant whose packages are absent, or that only a GPU can run, is skipped with that reason where its layer would have to run.
"""

import pytest
import torch
from every_variant import allowed, each, each_kernel, smallest_dim

from elmanctl import dims
from elmanctl.model import LadderLM, parameter_count
from elmanctl.variant import Spec
from elmanctl.verify.cases import other_sizes

B, T = 2, 9


@pytest.fixture(autouse=True)
def one_thread():
    """Compute in one thread: the sizes are tiny."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def skip_unless_it_runs(variant):
    """Skip where the layer cannot run here, saying why."""
    if missing := variant.missing():
        pytest.skip(f"{variant.name} needs {', '.join(missing)}: {variant.install}")
    if variant.requires and not torch.cuda.is_available():
        pytest.skip(f"{variant.name} runs the kernels of {', '.join(variant.requires)}, which need a GPU")


def built(variant):
    """Return (layers, dim) of the default configuration, parameters that start at zero drawn so that nothing hides behind a zero.

    In evaluation: a training call improves the vector of a spectral norm, so that the next differs a little.
    """
    spec = Spec(variant, variant.config())
    dim = smallest_dim(spec)
    layers = [layer.eval() for layer in spec.layers(dim)]
    for layer in layers:
        for parameter in layer.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.1)
    return layers, dim


def drawn(spec, kind):
    """Return (kernel, constants, sizes, fp64 inputs that require gradients) at tiny sizes."""
    kernel = spec.variant.kernel()
    constants = spec.variant.module("binding").constants(spec.config)
    sizes = {"B": B, "T": T, **other_sizes(spec, kernel), **constants}
    shapes = {s.name: s.shape(sizes) for s in kernel.input_specs if s.present(constants)}
    generator = torch.Generator().manual_seed(0)

    def randn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    inputs = spec.variant.module("reference").draw(kind, shapes, constants, randn)
    assert {name: tuple(t.shape) for name, t in inputs.items()} == shapes
    assert all(t.dtype == torch.float64 and t.isfinite().all() for t in inputs.values())
    return kernel, constants, sizes, {name: t.requires_grad_() for name, t in inputs.items()}


def run(spec, kernel, constants, inputs):
    full = {s.name: inputs.get(s.name) for s in kernel.input_specs}
    return dict(zip(kernel.outputs, spec.variant.module("reference").forward(**full, constants=constants), strict=True))


@each_kernel
def test_reference_in_fp64_and_its_gradient_reaches_every_input(variant):
    for spec in allowed(variant):
        kernel, constants, sizes, inputs = drawn(spec, "typical")
        outputs = run(spec, kernel, constants, inputs)
        for s in kernel.output_specs:
            assert tuple(outputs[s.name].shape) == s.shape(sizes) and outputs[s.name].dtype == torch.float64
        total = sum((o * torch.randn_like(o)).sum() for o in outputs.values())
        gradients = torch.autograd.grad(total, list(inputs.values()), allow_unused=True)
        for name, gradient in zip(inputs, gradients, strict=True):
            assert gradient is not None and gradient.isfinite().all(), f"{spec.name}: {name}"
            assert gradient.abs().max() > 0, f"{spec.name}: {name}"


@each_kernel
def test_every_draw_is_finite(variant):
    draws = variant.module("reference").DRAWS
    assert set(draws) >= {"typical", "saturated", "extreme"}
    for kind in draws:
        for spec in allowed(variant):
            kernel, constants, _, inputs = drawn(spec, kind)
            outputs = run(spec, kernel, constants, inputs)
            gradients = torch.autograd.grad(sum(o.sum() for o in outputs.values()), list(inputs.values()))
            assert all(t.isfinite().all() for t in (*outputs.values(), *gradients)), f"{spec.name} {kind}"


@each_kernel
def test_reference_is_causal_and_rows_are_independent(variant):
    spec = Spec(variant, variant.config())
    kernel, constants, _, inputs = drawn(spec, "typical")
    before = run(spec, kernel, constants, inputs)
    cut, moved = T // 2, 0
    changed = {name: t.detach().clone() for name, t in inputs.items()}
    for s in kernel.input_specs:
        if s.dims[:2] == ("B", "T") and s.name in changed:
            changed[s.name][1, cut:] += 1.0
    after = run(spec, kernel, constants, changed)
    for s in kernel.output_specs:
        a, b = before[s.name], after[s.name]
        torch.testing.assert_close(a[0], b[0], rtol=0, atol=0)
        if s.dims[:2] == ("B", "T"):
            torch.testing.assert_close(a[1, :cut], b[1, :cut], rtol=0, atol=0)
            moved += int((a[1, cut:] != b[1, cut:]).any())
    assert moved


@each_kernel
def test_binding_explains_its_constants(variant):
    kernel, binding = variant.kernel(), variant.module("binding")
    for spec in allowed(variant):
        assert set(binding.constants(spec.config)) == set(kernel.constants)
        assert all(type(value) is int for value in binding.constants(spec.config).values())
    assert all(len(meaning) > 3 for meaning in kernel.constants.values())
    assert {d.split("@")[0] for d in kernel.dtypes} >= {"float32", "bfloat16", "float64"}
    if kernel.after_backward:
        assert callable(getattr(variant.module("reference"), kernel.after_backward))


@each
def test_layer_shape_state_and_gradients(variant):
    skip_unless_it_runs(variant)
    layers, dim = built(variant)
    assert [type(layer).__name__ for layer in layers] == list(variant.sublayers)
    for layer in layers:
        x = torch.randn(B, T, dim, requires_grad=True)
        y, state = layer(x)
        assert y.shape == x.shape and y.dtype == torch.float32
        first = layer.initial_state(B, "cpu", torch.float32)
        assert state.keys() == first.keys()
        again, _ = layer(x, first)
        torch.testing.assert_close(again, y)
        (y * torch.randn_like(y)).sum().backward()
        assert x.grad.abs().max() > 0 and x.grad.isfinite().all()
        names = dict(layer.named_parameters())
        assert set(layer.no_decay) <= set(names)
        dead = [name for name, p in names.items() if p.grad is None or not p.grad.isfinite().all() or not p.grad.any()]
        assert dead == []


@each
def test_layer_is_causal(variant):
    skip_unless_it_runs(variant)
    layers, dim = built(variant)
    x = torch.randn(B, T, dim)
    for layer in layers:
        for t in (0, T // 2, T - 1):
            changed = x.clone()
            changed[1, t] += 1.0
            (a, _), (b, _) = layer(x), layer(changed)
            torch.testing.assert_close(a[:, :t], b[:, :t], rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(a[0], b[0], rtol=1e-5, atol=1e-6)
            assert (a[1, t] - b[1, t]).abs().max() > 1e-5


@each
def test_carrying_the_state_equals_one_run(variant):
    skip_unless_it_runs(variant)
    layers, dim = built(variant)
    x = torch.randn(B, T, dim)
    for layer in layers:
        whole, end = layer(x)
        head, state = layer(x[:, :4])
        tail, last = layer(x[:, 4:], state)
        torch.testing.assert_close(torch.cat([head, tail], 1), whole, rtol=1e-4, atol=1e-5)
        for key, tensor in end.items():
            if tensor.shape == last[key].shape:
                torch.testing.assert_close(last[key], tensor, rtol=1e-4, atol=1e-5)


@each
def test_counts_on_the_meta_device_are_those_of_a_real_model(variant):
    if missing := variant.missing():
        pytest.skip(f"{variant.name} needs {', '.join(missing)}: {variant.install}")
    small = [(spec, dim) for spec in allowed(variant) if (dim := smallest_dim(spec)) <= 256]
    assert small
    for spec, dim in small:
        real = parameter_count(LadderLM(spec, dim, 2))
        with torch.device("meta"):
            meta = LadderLM(spec, dim, 2)
        assert all(p.is_meta for p in meta.parameters())
        assert parameter_count(meta) == real == dims.count(spec, dim, 2)
