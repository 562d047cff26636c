"""The held-out loss: the same fixed windows of the data file for every model."""

import numpy as np
import torch

from elmanctl.step import autocast


def heldout_loss(model: torch.nn.Module, batches: list[np.ndarray], device: torch.device) -> float | None:
    """Return the mean loss over all windows, nats per byte; None where there are no batches.

    Buffers that a layer updates in its forward pass are put back, so that evaluating does not change training.

    Args:
        model: a LadderLM; batches: uint8 [B, T+1] each (Source.heldout), the last perhaps with fewer rows.
    """
    if not batches:
        return None
    before = [(buffer, buffer.clone()) for buffer in model.buffers()]
    total = torch.zeros((), dtype=torch.float64, device=device)
    model.eval()
    with torch.no_grad(), autocast(device):
        for batch in batches:
            loss, _ = model.loss(torch.from_numpy(batch).to(device))
            total += loss.double() * len(batch)
    model.train()
    with torch.no_grad():
        for buffer, value in before:
            buffer.copy_(value)
    return total.item() / sum(map(len, batches))
