"""What a layer hands to its kernel, and what autograd hands back, lies in memory as the kernel reads it: launch.py has nothing to copy."""

import pytest
import torch
from every_variant import allowed, each_kernel, smallest_dim

from elmanctl import ops

SMALL = 256


def strided(tensors):
    """Return the names of the tensors that a kernel would have to copy."""
    return sorted({name for name, t in tensors if t is not None and not t.is_contiguous()})


@pytest.fixture(autouse=True)
def one_thread():
    """Compute in one thread: the sizes are tiny."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def watched(monkeypatch):
    """Return a function that makes a variant's reference collect the gradients of y, as ("d_y", gradient)."""

    def watch(variant):
        found, reference = [], variant.module("reference")
        real, place = reference.forward, list(variant.kernel().outputs).index("y")

        def forward(*args, **kwargs):
            results = real(*args, **kwargs)
            results[place].register_hook(lambda d: found.append(("d_y", d)))
            return results

        monkeypatch.setattr(reference, "forward", forward)
        return found

    return watch


@each_kernel
def test_what_reaches_a_kernel_is_contiguous(variant, watched):
    """With every choice of every option, in fp32 and as it trains: parameters in fp32, products in bf16."""
    wrong, seen, upstream = {}, 0, watched(variant)
    for spec in (s for s in allowed(variant) if smallest_dim(s) <= SMALL):
        torch.manual_seed(0)
        for layer in spec.layers(smallest_dim(spec)):
            for autocast in (False, True):
                upstream.clear()
                with ops.recorded() as calls, torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                    y, _ = layer(torch.randn(2, 3, smallest_dim(spec)))
                y.float().square().sum().backward()
                assert calls and upstream
                names = strided([*(pair for _, given, _ in calls for pair in given.items()), *upstream])
                wrong |= {(spec.name, autocast): names} if names else {}
                seen += 1
    assert seen and wrong == {}
