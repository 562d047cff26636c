"""What the device gives at most, measured in the run that quotes a share of it."""

import torch

from elmanctl.kernelbench.clock import captured, interleaved

COPY_BYTES = 1 << 30
PRODUCT = 8192


def measure(device: torch.device) -> dict[str, float]:
    """Return `copy_gb_s` (read plus written) of a device copy, and `bf16_tflop_s` of a square product."""
    source = torch.empty(COPY_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    a, b = (torch.randn(PRODUCT, PRODUCT, device=device, dtype=torch.bfloat16) for _ in range(2))
    out = torch.empty_like(a)
    copy = captured(lambda _: target.copy_(source), 1)
    product = captured(lambda _: torch.mm(a, b, out=out), 1)
    copied, multiplied = interleaved([copy, product], 1)
    return {
        "copy_gb_s": 2 * COPY_BYTES / copied.median / 1e3,
        "bf16_tflop_s": 2 * PRODUCT**3 / multiplied.median / 1e6,
    }
