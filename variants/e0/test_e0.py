"""What only E0 has: early levels as presets, and a scaled orthogonal recurrent weight."""

import torch

from elmanctl.plugins.registry import registry


def layer(name):
    torch.manual_seed(0)
    return registry().resolve(name).layers(32)[0].eval()


def test_a_preset_has_the_parameters_of_its_level():
    names = {name: {n for n, _ in layer(name).named_parameters()} for name in ("pure", "x_gated", "hx", "E0")}
    assert names["x_gated"] == names["hx"] == names["pure"] | {"b_g"}
    assert names["E0"] == names["pure"] | {"W_g.weight", "W_g.bias"}
    assert layer("pure").W_h.norm is None and layer("hx").W_h.norm.rho == 0.99


def test_an_orthogonal_weight_keeps_its_matrix_and_trains_its_scale():
    made = layer("E0:weight=orthogonal")
    W = made.W_h().detach()
    torch.testing.assert_close(W @ W.mT, 0.4975**2 * torch.eye(32), rtol=1e-4, atol=1e-5)
    assert "W_h.Q" in made.state_dict() and "W_h.Q" not in dict(made.named_parameters())
    y, _ = made(torch.randn(2, 5, 32))
    y.square().sum().backward()
    assert made.W_h.scale.grad != 0


def test_silu_before_the_cell_comes_with_the_convolution_only():
    """Without it, x and -x give opposite states, as tanh is odd."""
    x = torch.randn(2, 5, 32)
    for name, odd in (("pure", True), ("pure:conv=true", False)):
        made = layer(name)
        (_, a), (_, b) = made(x), made(-x)
        assert torch.allclose(a["h"], -b["h"], atol=1e-6) == odd, name
