"""What the contract of all variants cannot know: gates so far closed that their exponentials leave float32."""

import pytest
import torch

from elmanctl.launch import run_backward, run_forward
from elmanctl.plugins.registry import registry


@pytest.mark.parametrize(
    ("f", "i"), [(-100.0, -100.0), (-100.0, -98.0), (100.0, -100.0), (-100.0, 100.0), (100.0, 100.0)]
)
def test_gates_far_beyond_float32_share_as_they_should(f, i):
    variant = registry().resolve("minlstm").variant
    kernel, constants = variant.kernel(), variant.module("binding").constants(variant.config())
    u = torch.linspace(-2, 2, 8).expand(1, 3, 8)
    inputs = {
        "proj": torch.cat([u, torch.full_like(u, f), torch.full_like(u, i)], -1),
        "h0": torch.linspace(0, 1, 8)[None],
    }
    out = run_forward(kernel, constants, inputs)
    wide = {name: t.double().requires_grad_() for name, t in inputs.items()}
    truth = variant.module("reference").forward(**wide, constants=constants)
    torch.testing.assert_close(out["y"].double(), truth[0], rtol=1e-5, atol=1e-30)
    upstream = {"d_y": torch.ones(1, 3, 8), "d_h_last": torch.ones(1, 8)}
    found = run_backward(kernel, constants, inputs | out, upstream)
    for name, gradient in zip(wide, torch.autograd.grad([t.sum() for t in truth], list(wide.values())), strict=True):
        torch.testing.assert_close(
            found[f"d_{name}"].double(), gradient, rtol=1e-5, atol=1e-7
        )  # h - g cancels where h has come near g
