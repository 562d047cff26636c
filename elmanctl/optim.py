"""AdamW on fp32 master weights, the learning-rate schedule over the budget, and clipping that never waits for the device.

Its arithmetic has two routes, those of norms.py: the kernels of adamw_kernels.py where they run, else torch's fused AdamW.
"""

import math

import torch
from torch import nn

from elmanctl.norms import implementation
from elmanctl.records import Budget, Training


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Split the parameters in two groups: matrices decay; biases, norms and `no_decay` names do not.

    Args:
        model: any module; a module's `no_decay` attribute names parameters below it (`A_log`, `cell.decay`).
        weight_decay: of the first group.
    """
    exempt = {
        f"{path}.{name}" if path else name
        for path, module in model.named_modules()
        for name in getattr(module, "no_decay", ())
    }
    parameters = dict(model.named_parameters())
    if unknown := exempt - set(parameters):
        raise ValueError(f"no_decay names {', '.join(sorted(unknown))}, which are not parameters.")
    kept = {name for name, p in parameters.items() if p.ndim < 2 or name in exempt}
    return [
        {"params": [p for name, p in parameters.items() if name not in kept], "weight_decay": weight_decay},
        {"params": [p for name, p in parameters.items() if name in kept], "weight_decay": 0.0},
    ]


class Optimizer:
    """AdamW that skips its update, on the device, from the first non-finite step on.

    The learning rate and the `halted` flag are device tensors, so that a captured CUDA graph reads their present value.
    Once `halted` is 1 the weights stay as they were before the step that failed, however many steps are already in flight.
    """

    def __init__(self, model: nn.Module, training: Training, device: torch.device):
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.clip = training.clip
        self.lr = torch.zeros((), device=device)
        self.halted = torch.zeros((), device=device)
        self.counts = torch.zeros(len(self.parameters), device=device)  # finished steps: `step` of each weight's state
        self.route = implementation(device) if all(p.dtype == torch.float32 for p in self.parameters) else "torch"
        groups = [group for group in decay_groups(model, training.weight_decay) if group["params"]]
        self.adamw = torch.optim.AdamW(
            groups, lr=self.lr, betas=training.betas, fused=True, capturable=device.type == "cuda"
        )
        self.adamw.found_inf = self.halted  # fused AdamW leaves weights and state alone where this is 1

    def step(self, loss: torch.Tensor) -> torch.Tensor:
        """Clip the gradients and update the weights, unless loss or gradient is not finite.

        Returns:
            [3] on the device: loss, gradient norm before clipping, 1 if training has halted.
        """
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        if self.route == "triton":
            return self._by_kernels(loss.detach().float(), gradients)
        norm = nn.utils.get_total_norm(gradients)
        if self.clip > 0:
            nn.utils.clip_grads_with_norm_(self.parameters, self.clip, norm)
        found = torch.stack((loss.detach().float(), norm.float()))
        # x - x is 0, or NaN where x is not finite; torch.isfinite of a number is four launches.
        self.halted.masked_fill_((found - found).sum() != 0, 1.0)
        self.adamw.step()
        return torch.cat((found, self.halted[None]))

    @torch.no_grad()
    def _by_kernels(self, loss: torch.Tensor, gradients: list[torch.Tensor]) -> torch.Tensor:
        from elmanctl import adamw_kernels

        betas, parts = self.adamw.defaults["betas"], adamw_kernels.squares(gradients)
        outcome, rates = adamw_kernels.decide(loss, parts, self.lr, self.halted, self.counts, self.clip, betas)
        for group in self.adamw.param_groups:
            weights, eps, decay = (group[name] for name in ("params", "eps", "weight_decay"))
            adamw_kernels.update(weights, self.adamw.state, rates, self.lr, self.halted, betas, eps, decay)
        return outcome

    def tensors(self, model: nn.Module) -> dict[str, torch.Tensor]:
        """Return AdamW's state by name: `exp_avg.<parameter>`, `exp_avg_sq.<parameter>`, `step.<parameter>`."""
        return {
            f"{kind}.{name}": tensor
            for name, p in model.named_parameters()
            for kind, tensor in self.adamw.state.get(p, {}).items()
        }

    def allocate(self) -> None:
        """Make AdamW's state where there is none yet: zeros, as its first step would."""
        for p, count in zip(self.parameters, self.counts, strict=True):
            if p not in self.adamw.state:
                self.adamw.state[p] = {
                    "step": count,
                    "exp_avg": torch.zeros_like(p, memory_format=torch.preserve_format),
                    "exp_avg_sq": torch.zeros_like(p, memory_format=torch.preserve_format),
                }


class Schedule:
    """The learning rate over the budget: linear warm-up, then cosine down to a share of the peak (or constant).

    Warm-up ends after `warmup_steps` steps or `warmup_share` of the budget, whichever is first.
    """

    def __init__(self, training: Training, budget: Budget):
        self.training = training
        self.start: float | None = None  # share of the budget spent when warm-up ended
        tokens = training.batch * training.chunk
        self.total_steps = budget.steps or (math.ceil(budget.tokens / tokens) if budget.tokens else None)
        self.total_seconds = budget.minutes * 60 if budget.minutes else None

    def spent(self, steps: int, seconds: float) -> float:
        """Return the share of the budget, 0 to 1 and over, that so many finished steps and seconds are."""
        return steps / self.total_steps if self.total_steps else seconds / self.total_seconds

    def rate(self, steps: int, seconds: float) -> float:
        """Return the learning rate of the step that follows `steps` finished ones; to be asked once a step, in order."""
        t = self.training
        if self.start is None:
            step_share = 1 / self.total_steps if self.total_steps else 0.0
            # The first step takes 1 / warm-up length of the peak, not 0: a step that cannot move anything is wasted.
            by_steps = (steps + 1) / t.warmup_steps if t.warmup_steps else 1.0
            by_share = (self.spent(steps, seconds) + step_share) / t.warmup_share if t.warmup_share else 1.0
            if max(by_steps, by_share) < 1:
                return t.lr * max(by_steps, by_share)
            self.start = self.spent(steps, seconds)
        if t.schedule == "constant":
            return t.lr
        along = min(1.0, (self.spent(steps, seconds) - self.start) / max(1 - self.start, 1e-9))
        return t.lr * (t.final_lr_share + (1 - t.final_lr_share) * 0.5 * (1 + math.cos(math.pi * along)))
