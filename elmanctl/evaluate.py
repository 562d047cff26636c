"""The held-out loss: the same fixed windows of the data file for every model."""

import numpy as np
import torch

from elmanctl.step import autocast


def heldout_losses(model: torch.nn.Module, batches: list[np.ndarray], device: torch.device) -> list[float]:
    """Return the mean loss of each batch, nats per byte.

    Buffers that a layer updates in its forward pass are put back, so that evaluating does not change training.

    Args:
        model: a LadderLM; batches: uint8 [B, T+1] each (Source.heldout), the last perhaps with fewer rows.
    """
    before = [(buffer, buffer.clone()) for buffer in model.buffers()]
    losses = []
    model.eval()
    with torch.no_grad(), autocast(device):
        for batch in batches:
            loss, _ = model.loss(torch.from_numpy(batch).to(device))
            losses.append(loss.double())
    model.train()
    with torch.no_grad():
        for buffer, value in before:
            buffer.copy_(value)
    return torch.stack(losses).tolist() if losses else []


def heldout_loss(losses: list[float], batches: list[np.ndarray]) -> float | None:
    """Return the mean over all windows of the batches' losses, nats per byte; None where there are no batches."""
    return float(np.average(losses, weights=[len(batch) for batch in batches])) if batches else None
