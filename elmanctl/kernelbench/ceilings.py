"""What the device gives at most, measured in the run that quotes a share of it."""

import torch

from elmanctl.kernelbench.clock import captured, interleaved

COPIED = 1 << 28  # fp32 numbers
PRODUCT = 8192


def measure(device: torch.device) -> dict[str, float]:
    """Return `copy_gb_s` (read plus written) of an elementwise kernel, and `bf16_tflop_s` of a square product.

    A kernel, since a plain copy goes to a copy engine, which is slower: 2.8 against 4.2 TB/s on an H200.
    """
    source = torch.zeros(COPIED, device=device)
    target = torch.empty_like(source)
    a, b = (torch.randn(PRODUCT, PRODUCT, device=device, dtype=torch.bfloat16) for _ in range(2))
    out = torch.empty_like(a)
    copy = captured(lambda _: torch.neg(source, out=target), 1)
    product = captured(lambda _: torch.mm(a, b, out=out), 1)
    copied, multiplied = interleaved([copy, product], 1)
    return {
        "copy_gb_s": 2 * source.nbytes / copied.median / 1e3,
        "bf16_tflop_s": 2 * PRODUCT**3 / multiplied.median / 1e6,
    }
