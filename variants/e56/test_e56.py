"""E56 is E1's recurrence: the same outputs where its one weight holds E1's two."""

import torch

from elmanctl.plugins.registry import registry


def test_equal_to_two_weights_side_by_side():
    torch.manual_seed(0)
    split = registry().resolve("E1:spectral_norm=false").layers(32)[0]
    whole = registry().resolve("E56").layers(32)[0]
    shared = split.state_dict()
    weight = torch.cat([shared.pop("W_x.weight"), shared.pop("W_h.weight")], 1)
    bias = shared.pop("W_x.bias")
    whole.load_state_dict({**shared, "W.weight": weight, "W.bias": bias})
    x = torch.randn(2, 5, 32)
    (a, a_last), (b, b_last) = split(x), whole(x)
    torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(a_last["h"], b_last["h"], rtol=1e-6, atol=1e-7)
    (a.square().sum() + b.square().sum()).backward()
    torch.testing.assert_close(whole.W.weight.grad, torch.cat([split.W_x.weight.grad, split.W_h.weight.grad], 1))
