"""Training parity: a tiny language model trained with the kernel and with the reference, from the same weights and batches.

* The truth is the curve of losses of the reference in fp64. Its floor is the same training with fp32 noise on every operation, forward,
  backward and in the optimizer, so that it contains how training amplifies rounding. The kernel's curve, in fp32, must lie within the rule.
* The text repeats, so that the loss falls far and the curve is one of learning, not of noise around a constant.
"""

import time

import numpy as np
import torch
import torch.nn.functional as F

from elmanctl.model import LadderLM
from elmanctl.optim import decay_groups
from elmanctl.variant import Spec
from elmanctl.verify.layers import backend, smallest_dim
from elmanctl.verify.policy import ACCUMULATION
from elmanctl.verify.rounding import TINY, UNIT, Rounding
from elmanctl.verify.run import Check, judged
from elmanctl.verify.tolerance import Row, judge
from elmanctl.verify.truth import seed_of

STEPS, ROWS, LENGTH, DEPTH = 100, 2, 12, 2
RATE, DECAY, CLIP = 1e-3, 0.01, 1.0
ROUNDINGS = 4
PERIOD = 29  # bytes after which the text repeats
FALL = 0.5  # nats per byte that the loss must fall for the curve to say anything
NAME = "train"


def batches(seed: int) -> torch.Tensor:
    """Return [STEPS, ROWS, LENGTH + 1] bytes: pieces of a text that repeats."""
    generator = torch.Generator().manual_seed(seed_of("parity batches", seed))
    text = torch.randint(0, 256, (PERIOD,), generator=generator)
    starts = torch.randint(0, PERIOD, (STEPS, ROWS, 1), generator=generator)
    return text[(starts + torch.arange(LENGTH + 1)) % PERIOD]


def curve(
    spec: Spec, where: str, dtype: torch.dtype, device: str, seed: int, rounding: Rounding | None = None
) -> np.ndarray:
    """Return the loss of each step, nats per byte, of training on backend `where`; with noise where a rounding is given."""
    with torch.random.fork_rng():
        torch.manual_seed(seed_of("parity weights", seed) % 2**63)
        model = LadderLM(spec, smallest_dim(spec), DEPTH).train().to(device, dtype)
    adamw = torch.optim.AdamW(decay_groups(model, DECAY), lr=RATE, betas=(0.9, 0.95), foreach=False)
    losses = []
    for tokens in batches(seed).to(device):
        adamw.zero_grad()
        with rounding or backend("library"), backend(where):
            logits, _ = model(tokens[:, :-1])
            loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            adamw.step()
        losses.append(loss.item())
    return np.array(losses)


def compare(got: np.ndarray, truth: np.ndarray, noisy: list[np.ndarray]) -> Row:
    """Apply the rule to a curve of losses."""
    errors = np.stack([curve - truth for curve in noisy])
    unit = ACCUMULATION * UNIT["float32"] * float(ROWS * LENGTH) ** 0.5
    return judge("loss", ("T",), got, truth, errors, unit, TINY["float32"])


def check_parity(spec: Spec, what: str, where: str, device: str, seed: int) -> Check:
    """Train with the kernel on `where` and with the reference, and require the curves to coincide within the floor."""
    started, id = time.monotonic(), f"layer {what}"
    true = "reference" if spec.variant.has_kernel else "library"
    truth = curve(spec, true, torch.float64, "cpu", seed)
    noisy = [
        curve(spec, true, torch.float64, "cpu", seed, Rounding(None, "float32", seed_of(f"parity {i}", seed)))
        for i in range(ROUNDINGS)
    ]
    got = curve(spec, where, torch.float32, device, seed)
    check = judged(id, "layer", [compare(got, truth, noisy)], started)
    check.message = f"{STEPS} steps, loss {truth[0]:.4f} to {truth[-1]:.4f}; the kernel's curve is off by up to {abs(got - truth).max():.1e}"
    if truth[0] - truth[-8:].mean() < FALL:
        check.ok, check.message = False, check.message + ": too little is learnt to compare"
    return check
