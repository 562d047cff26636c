"""What the contract of all variants cannot know: delta stays inside its bound and never loses its gradient."""

import torch

from elmanctl.plugins.registry import registry


def test_delta_stays_below_its_bound_and_keeps_a_gradient():
    (layer,) = registry().resolve("E34").layers(64)
    delta = layer.vectors()["delta"]
    assert delta.min() >= 0.9 and delta.max() < 0.99
    for value in (-4.0, 4.0):
        with torch.no_grad():
            layer.delta_raw.fill_(value)
        delta = layer.vectors()["delta"]
        (gradient,) = torch.autograd.grad(delta.sum(), layer.delta_raw)
        assert delta.abs().max() < 0.99 and gradient.min() > 1e-4
