"""Tests that need a GPU are skipped where torch sees none."""

import pytest
import torch


@pytest.fixture(autouse=True)
def needs_cuda(request):
    if request.node.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("no CUDA device is visible to torch")
