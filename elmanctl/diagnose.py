"""What is wrong with a run: a first loss that is too high; where a loss stopped being finite, found by running the batch once more."""

from pathlib import Path

import numpy as np
import torch

from elmanctl.files import atomic
from elmanctl.step import autocast

FINITE = "nothing: the same batch is finite when run again without the graph"
INITIAL_EXCESS = 0.05  # share above the expected initial loss that is worth a warning


def initial_warning(loss: float, expected: float) -> str:
    """Return a warning of an untrained loss that a sound model of its width does not have, else an empty text."""
    if loss <= expected * (1 + INITIAL_EXCESS):
        return ""
    return (
        f"The untrained model's loss is {loss:.3f}; ln 256 + 0.0002 dim = {expected:.3f} is expected. Likely cause: a layer whose "
        "output repeats the embedding at a large scale, so that the tied head is sure of the wrong byte; look at its initialisation."
    )


def divergence(folder: Path, model: torch.nn.Module, batch: np.ndarray, parts: int, step: int, found: str) -> str:
    """Keep the batch of a failed step, find where it fails, and return what to record.

    Args:
        folder: the run's; batch: uint8 [B, T+1], run again in so many equal `parts`; found: loss and gradient norm, for the record.
    """
    kept = folder / f"diverged_step_{step:06d}.npy"
    with atomic(kept, "wb") as file:
        np.save(file, batch)
    device = next(model.parameters()).device
    each = (first_nonfinite(model, part.to(device)) for part in torch.from_numpy(batch).chunk(parts))
    where = next((text for text in each if text != FINITE), FINITE)
    return f"step {step}: {found}; first not finite: {where}. The batch is kept in {kept.name}. A lower --lr is the usual remedy."


def tensors_in(value) -> list[torch.Tensor]:
    """Return the floating tensors inside a module's output."""
    if isinstance(value, torch.Tensor):
        return [value] if value.is_floating_point() else []
    values = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [tensor for inner in values for tensor in tensors_in(inner)]


def finite(tensor: torch.Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())


def first_nonfinite(model: torch.nn.Module, tokens: torch.Tensor) -> str:
    """Name the first tensor that is not finite: a weight, else a module's output, else a gradient in backward order.

    Args:
        model: a LadderLM with its weights as they were before the failed step.
        tokens: the failed batch, [B, T+1], on the model's device.
    Returns:
        text for the record, for example `output of layers.3 (Layer)`.
    """
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if not finite(tensor):
            return f"the weight {name}"
    found: list[str] = []

    def label(name: str, module: torch.nn.Module) -> str:
        return f"{name} ({type(module).__name__})"

    def watch(name: str):
        def hook(module, inputs, output):
            for tensor in tensors_in(output):
                if not finite(tensor):
                    found.append(f"output of {label(name, module)}")
                elif tensor.requires_grad:
                    tensor.register_hook(
                        lambda g: None if finite(g) else found.append(f"gradient at {label(name, module)}")
                    )

        return hook

    handles = [module.register_forward_hook(watch(name)) for name, module in model.named_modules() if name]
    try:
        model.zero_grad(set_to_none=True)
        with autocast(tokens.device):
            loss, _ = model.loss(tokens)
        if not found and not finite(loss):
            found.append("the loss itself; every module's output is finite")
        if not found:
            loss.backward()
            found += [
                f"gradient of {name}"
                for name, p in model.named_parameters()
                if p.grad is not None and not finite(p.grad)
            ]
    except torch.OutOfMemoryError:
        found.append("not known, since memory ran out in the search")
    finally:
        for handle in handles:
            handle.remove()
        model.zero_grad(set_to_none=True)
    return found[0] if found else FINITE
