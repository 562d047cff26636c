"""Several projections of one input give what separate ones give, and their gradients are summed without a tensor for each."""

import pytest
import torch
import torch.nn.functional as F

from elmanctl import casts, projections
from elmanctl.model import LadderLM
from elmanctl.ops import project
from elmanctl.plugins.registry import registry

SHAPES = ((2, 5, 12), (16, 12), (3, 12), (7, 12))


def project_silu(x, *weights):
    return project(x, *weights, silu=True)


def apart_silu(x, *weights):
    return tuple(F.linear(F.silu(x), w) for w in weights)


def gradients(make, x, weights):
    x, weights = x.clone().requires_grad_(), [w.clone().requires_grad_() for w in weights]
    outputs = make(x, *weights)
    sum((y.float() * (i + 1) * torch.arange(y.shape[-1])).sum() for i, y in enumerate(outputs)).backward()
    return [y.detach() for y in outputs], x.grad, [w.grad for w in weights]


def case(dtype):
    generator = torch.Generator().manual_seed(0)
    x, *weights = (torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype) for shape in SHAPES)
    return x, weights


def apart(x, *weights):
    return tuple(F.linear(x, w) for w in weights)


@pytest.mark.parametrize(("mine", "plain"), [(project, apart), (project_silu, apart_silu)])
def test_values_and_gradients_are_those_of_separate_projections(mine, plain):
    x, weights = case(torch.float64)
    for found, wanted in zip(gradients(mine, x, weights), gradients(plain, x, weights), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(("mine", "plain"), [(project, apart), (project_silu, apart_silu)])
def test_under_autocast_products_are_bf16_and_parameters_get_fp32_gradients(mine, plain):
    x, weights = case(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        outputs, d_x, d_weights = gradients(mine, x, weights)
    assert {y.dtype for y in outputs} == {torch.bfloat16}
    assert d_x.dtype == torch.float32 and {d.dtype for d in d_weights} == {torch.float32}
    _, wanted, _ = gradients(plain, x, weights)
    assert (d_x - wanted).norm() < 0.01 * wanted.norm()


def test_one_projection_and_one_row():
    x, weights = case(torch.float64)
    (y,) = project(x[0, 0], weights[0])
    torch.testing.assert_close(y, F.linear(x[0, 0], weights[0]))


def test_the_input_has_one_gradient_tensor_at_a_time(monkeypatch):
    """Each further projection adds into it."""
    made = []
    add = torch.Tensor.addmm_
    monkeypatch.setattr(
        torch.Tensor, "addmm_", lambda self, *a, **k: (made.append(self.data_ptr()), add(self, *a, **k))[1]
    )
    x, weights = case(torch.float64)
    gradients(project, x, weights)
    assert len(made) == len(weights) - 1 and len(set(made)) == 1


@pytest.mark.parametrize("mine", [project, project_silu])
def test_what_is_kept_until_the_backward_pass_is_the_input_and_the_weights_as_they_are_multiplied(mine):
    x, weights = case(torch.float32)
    kept = []
    with (
        torch.autocast("cpu", torch.bfloat16),
        torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t), t)[1], lambda t: t),
    ):
        mine(x.requires_grad_(), *(w.requires_grad_() for w in weights))
    assert len(kept) == 1 + len(weights)
    assert {t.dtype for t in kept} == {torch.bfloat16}
    assert [t.shape for t in kept] == [x.shape, *(w.shape for w in weights)]


@pytest.mark.parametrize(("name", "weights"), [("E88h2n8", 3), ("E42", 2)])
def test_a_model_casts_the_weights_that_it_has_projected_by_at_once(monkeypatch, name, weights):
    """From its second pass on, without an effect on a single bit; layers that run again in the backward pass cast theirs alone."""
    groups, copy = [], torch._foreach_copy_
    monkeypatch.setattr(torch, "_foreach_copy_", lambda to, of: (groups.append(len(to)), copy(to, of))[1])
    torch.manual_seed(0)
    model = LadderLM(registry().resolve(name), 32, 3, checkpoint_layers=1).eval()
    tokens = torch.randint(0, 256, (2, 6))

    def passes():
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss, _ = model.loss(tokens)
        loss.backward()
        return [loss.detach(), *(p.grad.clone() for p in model.parameters())]

    first, second = passes(), passes()
    assert groups == [2 * weights] and not casts._made
    assert all(a.equal(b) for a, b in zip(first, second, strict=True))
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.5)
    assert not passes()[0].equal(first[0]), "casts are of the weights as they are"


SPLIT = (2, 9, 5)


def by_rows(x, weight):
    return project(x, weight, rows=SPLIT)


def by_rows_silu(x, weight):
    return project(x, weight, silu=True, rows=SPLIT)


def cut(x, weight):
    return F.linear(x, weight).split(SPLIT, -1)


def cut_silu(x, weight):
    return F.linear(F.silu(x), weight).split(SPLIT, -1)


FORMS = [(by_rows, cut), (by_rows_silu, cut_silu)]


@pytest.mark.parametrize(("mine", "plain"), FORMS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_by_rows_of_one_weight_are_the_columns_of_its_product(mine, plain, dtype):
    x, weights = case(dtype)
    found, wanted = gradients(mine, x, weights[:1]), gradients(plain, x, weights[:1])
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)
    assert all(y.is_contiguous() for y in found[0]) and not any(y.is_contiguous() for y in wanted[0])


@pytest.mark.parametrize(("mine", "plain"), FORMS)
def test_by_rows_under_autocast_the_weight_is_cast_once_and_gets_one_fp32_gradient(monkeypatch, mine, plain):
    x, weights = case(torch.float32)
    asked = []
    real = casts.cast
    monkeypatch.setattr(projections, "cast", lambda w, dtype: (asked.append(tuple(w.shape)), real(w, dtype))[1])
    with torch.autocast("cpu", torch.bfloat16):
        outputs, d_x, (d_weight,) = gradients(mine, x, weights[:1])
    assert asked == [SHAPES[1]] and {y.dtype for y in outputs} == {torch.bfloat16}
    assert d_x.dtype == d_weight.dtype == torch.float32 and d_weight.is_contiguous()
    _, wanted_x, (wanted,) = gradients(plain, x, weights[:1])
    assert (d_x - wanted_x).norm() < 0.01 * wanted_x.norm() and (d_weight - wanted).norm() < 0.01 * wanted.norm()


def test_by_rows_each_product_writes_its_rows_of_the_gradient(monkeypatch):
    """Not a tensor for each and then one for all."""
    written = []
    mm = torch.mm
    monkeypatch.setattr(torch, "mm", lambda *a, out: (written.append((len(out), out.data_ptr())), mm(*a, out=out))[1])
    x, weights = case(torch.float32)
    _, _, (d_weight,) = gradients(by_rows, x, weights[:1])
    assert written == [(len(part), part.data_ptr()) for part in d_weight.split(SPLIT)]


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("mine", [project, by_rows, by_rows_silu])
def test_a_projection_compiles_to_one_graph_with_its_gradient(mine, autocast):
    x, weights = case(torch.float32)
    torch.compiler.reset()
    compiled = torch.compile(mine, fullgraph=True, dynamic=False, backend="aot_eager")
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found, wanted = gradients(compiled, x, weights[:1]), gradients(mine, x, weights[:1])
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_columns_of_a_weight_are_its_halves_without_gaps_and_have_one_fp32_gradient():
    def plain(weight, count, dtype):
        return tuple(part.to(dtype) for part in weight.chunk(count, dim=1))

    for dtype in (torch.float32, torch.bfloat16):
        results = []
        for form in (projections.columns, plain):
            _, (weight, *_) = case(torch.float32)
            parts = form(weight.requires_grad_(), 2, dtype)
            sum((part.float() ** 2).sum() * (i + 1) for i, part in enumerate(parts)).backward()
            results.append([*(part.detach() for part in parts), weight.grad])
        assert all(
            t.is_contiguous() and t.dtype == d for t, d in zip(results[0], (dtype, dtype, torch.float32), strict=True)
        )
        for found, wanted in zip(*results, strict=True):
            torch.testing.assert_close(found, wanted, rtol=0, atol=0)
