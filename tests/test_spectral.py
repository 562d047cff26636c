"""Spectral normalisation: the bound, the gradient with u and v constant, the state of u."""

import pytest
import torch

from elmanctl.spectral import EPS, FactoredNorm, SpectralNorm


def random_weight(rows, columns, seed=0, dtype=torch.float64):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_after_warming_the_largest_singular_value_is_rho():
    W = random_weight(320, 320, dtype=torch.float32) / 320**0.5
    norm = SpectralNorm(320, 0.999)
    cold = torch.linalg.matrix_norm(norm.eval()(W), 2)
    norm.warm(W)
    warm = torch.linalg.matrix_norm(norm(W), 2)
    assert cold > 1.3, "one product from a random u is far off, so the test can fail"
    assert 0.998 < warm < 0.999 * 1.01


@pytest.mark.parametrize("scale", [0.01, 100.0])
def test_the_scale_of_the_weight_has_no_effect(scale):
    W = random_weight(32, 32, dtype=torch.float32)
    norm = SpectralNorm(32, 0.5)
    norm.warm(W)
    torch.testing.assert_close(norm.eval()(scale * W), norm(W), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(12, 12), (10, 7)])
def test_gradient_takes_u_and_v_as_constants(shape):
    rho, norm = 0.95, SpectralNorm(shape[0], 0.95).double().eval()
    W, G = random_weight(*shape).requires_grad_(), random_weight(*shape, seed=1)
    (found,) = torch.autograd.grad(norm(W), W, G)
    u = norm.u
    v = W.detach().mT @ u
    v = v / (v.norm() + EPS)
    inner = u @ W.detach() @ v
    s = rho / (inner.abs() + EPS)
    correction = (G * W.detach()).sum() / (inner.abs() + EPS) * inner.sign()
    torch.testing.assert_close(found, s * (G - correction * torch.outer(u, v)), rtol=1e-12, atol=1e-12)


def test_training_updates_u_in_place_and_evaluation_does_not():
    W, norm = random_weight(24, 24, dtype=torch.float32), SpectralNorm(24, 0.99)
    address, before = norm.u.data_ptr(), norm.u.clone()
    norm.train()(W)
    assert norm.u.data_ptr() == address and not torch.equal(norm.u, before), "a CUDA graph keeps the address"
    after = norm.u.clone()
    first, second = norm.eval()(W), norm(W)
    assert torch.equal(norm.u, after) and torch.equal(first, second)


def test_u_is_saved_and_stays_in_fp32_under_autocast():
    W, norm = random_weight(16, 16, dtype=torch.float32), SpectralNorm(16, 0.99)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = norm(W)
    assert result.dtype == torch.float32 and norm.u.dtype == torch.float32
    copy = SpectralNorm(16, 0.99)
    copy.load_state_dict(norm.state_dict())
    assert torch.equal(copy.eval()(W), norm.eval()(W))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_cast_of_the_model_leaves_u_as_it_is(dtype):
    norm = SpectralNorm(32, 0.9)
    u = norm.u.clone()
    assert torch.equal(norm.to(dtype).u, u) and norm.state_dict()["u"].dtype == torch.float32
    assert norm.double().u.dtype == torch.float64 and norm.to(dtype).u.dtype == torch.float64
    found = norm(random_weight(32, 32).to(dtype))
    assert found.dtype == torch.float32 and abs(torch.linalg.matrix_norm(found, 2) - 0.9) < 0.3


def test_two_calls_before_one_backward():
    W, norm = random_weight(16, 16, dtype=torch.float32).requires_grad_(), SpectralNorm(16, 0.99)
    (norm(W).sum() + norm(W).sum()).backward()
    assert bool(W.grad.isfinite().all())


def test_construction_on_the_meta_device():
    with torch.device("meta"):
        norm = SpectralNorm(16, 0.99)
        norm.warm(torch.empty(16, 16))
    assert norm.u.is_meta


def test_factors_are_scaled_as_their_product_would_be():
    """With gradients through sigma, u and v constant: those of the formula for a whole matrix, carried over to the factors."""
    U, V, G = (
        random_weight(12, 4).requires_grad_(),
        random_weight(4, 9, seed=1).requires_grad_(),
        random_weight(12, 9, seed=2),
    )
    whole, factored = SpectralNorm(12, 0.95), FactoredNorm(12, 0.95)
    factored.u.copy_(whole.u)
    whole.warm(U.detach() @ V.detach())
    factored.warm(U.detach(), V.detach())
    torch.testing.assert_close(factored.u, whole.u, rtol=1e-4, atol=1e-5)
    factored.u.copy_(whole.u)
    whole.double(), factored.double()
    left, right = factored.eval()(U, V)
    torch.testing.assert_close(left @ right, whole.eval()(U @ V))
    found = torch.autograd.grad(left @ right, (U, V), G)
    truth = torch.autograd.grad(whole(U @ V), (U, V), G)
    for ours, theirs in zip(found, truth, strict=True):
        torch.testing.assert_close(ours, theirs)
    before = factored.u.clone()
    factored.train()(U, V)
    assert not torch.equal(factored.u, before), "a training step improves u"
