"""Projections by rows of one weight on CUDA, whose gradient is one tensor in fp32 of products in bf16."""

import pytest
import torch

from elmanctl.ops import project

pytestmark = pytest.mark.gpu

ROWS = (64, 128, 32)


@pytest.mark.parametrize("compiled", [False, True])
def test_values_and_gradients_are_those_of_a_weight_for_each(compiled):
    torch.manual_seed(0)
    x, weight = torch.randn(4, 40, 96, device="cuda"), torch.randn(sum(ROWS), 96, device="cuda")

    def run(project_all, *weights):
        given = [t.clone().requires_grad_() for t in (x, *weights)]
        with torch.autocast("cuda", torch.bfloat16):
            outputs = project_all(*given)
        sum((y.float() * (i + 1)).square().sum() for i, y in enumerate(outputs)).backward()
        return outputs, given[0].grad, torch.cat([t.grad for t in given[1:]])

    def by_rows(x, weight):
        return project(x, weight, rows=ROWS)

    torch.compiler.reset()
    found = run(torch.compile(by_rows, fullgraph=True, dynamic=False) if compiled else by_rows, weight)
    wanted = run(project, *weight.split(ROWS))
    assert all(y.is_contiguous() and y.dtype == torch.bfloat16 for y in found[0])
    assert found[2].dtype == torch.float32
    for one, other in zip((*found[0], *found[1:]), (*wanted[0], *wanted[1:]), strict=True):
        assert (one - other).float().norm() <= (0.01 if compiled else 1e-3) * other.float().norm()
