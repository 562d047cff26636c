"""One optimizer step: forward, backward, clip and update, on a CPU or on CUDA, where it is one captured CUDA graph.

* `launch` enqueues a step and `collect` returns the finished ones in order, up to SLOTS steps late, so that the device
  never waits for Python.
* Nothing here decides how long to train or what to record; see train.py.
"""

import contextlib
import time
from collections import deque
from typing import NamedTuple

import numpy as np
import torch

from elmanctl.errors import UserError
from elmanctl.optim import Optimizer
from elmanctl.ranks import Ranks
from elmanctl.records import Training, check_shares

SLOTS = 4  # steps in flight; enough to hide the host's work, few enough that a stop is prompt
WARMUPS = 3  # eager steps before capture, in which compilers and autotuners finish
WARMUPS_TOGETHER = 11  # as many as DDP wants before it is captured: it times its first ten


class Outcome(NamedTuple):
    """What one step gave: loss in nats per byte, gradient norm before clipping, whether training halted, seconds on the clock."""

    loss: float
    grad_norm: float
    halted: bool
    seconds: float


def autocast(device: torch.device):
    """Return the compute precision of a device: bf16 on CUDA, as written (fp32) on a CPU."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def train_step(
    model: torch.nn.Module, optimizer: Optimizer, tokens: torch.Tensor, micro_batches: int = 1, averaged=None
) -> torch.Tensor:
    """Run one step on tokens [B, T+1], uint8, in equal parts of the batch one after the other.

    Args:
        averaged: ranks.Averaged, where `tokens` are one rank's rows of a batch that several share.
    Returns:
        Optimizer.step's [loss, gradient norm, halted] on the device, of the batch as a whole.
    """
    optimizer.adamw.zero_grad(set_to_none=True)
    losses = []
    for number, part in enumerate(tokens.chunk(micro_batches), 1):
        with averaged.part(number == micro_batches) if averaged else contextlib.nullcontext():
            with autocast(tokens.device):
                loss = averaged.loss(part) if averaged else model.loss(part)[0]
            (loss / micro_batches if micro_batches > 1 else loss).backward()
        losses.append(loss.detach())
    mean = losses[0] if micro_batches == 1 else torch.stack(losses).mean()
    return optimizer.step(averaged.mean(mean) if averaged else mean)


class HostStep:
    """Steps on a CPU: each has finished when `launch` returns."""

    graph = False

    def __init__(self, model: torch.nn.Module, optimizer: Optimizer, micro_batches: int = 1, averaged=None):
        self.model, self.optimizer, self.micro_batches, self.averaged = model, optimizer, micro_batches, averaged
        self.finished: list[Outcome] = []
        self.start_clock(0.0)

    def prepare(self, batch: np.ndarray) -> None:
        """Allocate what the first step would."""
        self.optimizer.allocate()

    def start_clock(self, offset: float) -> None:
        """Let the training clock go on from `offset` seconds; what passed since the last step does not count."""
        self.origin = time.perf_counter() - offset

    def elapsed(self) -> float:
        """Return the seconds on the training clock."""
        return time.perf_counter() - self.origin

    def launch(self, batch: np.ndarray, lr: float) -> None:
        """Run a step on a batch, uint8 [B, T+1], at a learning rate."""
        self.optimizer.lr.fill_(lr)
        tokens = torch.from_numpy(batch)
        outcome = train_step(self.model, self.optimizer, tokens, self.micro_batches, self.averaged)
        loss, norm, halted = outcome.tolist()
        self.finished.append(Outcome(loss, norm, halted > 0, self.elapsed()))

    def collect(self, wait: bool = False) -> list[Outcome]:
        """Return the steps that finished since the last call, in order; all that were launched if `wait`."""
        finished, self.finished = self.finished, []
        return finished


class DeviceStep:
    """Steps on CUDA, as one graph replay each (or eager), fed and read through pinned buffers."""

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: Optimizer,
        shape: tuple[int, int],
        device: torch.device,
        graph: bool,
        micro_batches: int = 1,
        averaged=None,
    ):
        self.model, self.optimizer, self.device, self.graph = model, optimizer, device, graph
        self.micro_batches, self.averaged = micro_batches, averaged
        self.captured: torch.cuda.CUDAGraph | None = None
        self.tokens = torch.zeros(shape, dtype=torch.uint8, device=device)
        self.staged = [torch.empty(shape, dtype=torch.uint8, pin_memory=True) for _ in range(SLOTS)]
        self.rates = [torch.empty((), pin_memory=True) for _ in range(SLOTS)]
        self.results = [torch.empty(3, pin_memory=True) for _ in range(SLOTS)]
        self.done = [torch.cuda.Event(enable_timing=True) for _ in range(SLOTS)]
        self.running: deque[int] = deque()
        self.slot = 0
        self.finished: list[Outcome] = []
        self.start_clock(0.0)

    def prepare(self, batch: np.ndarray) -> None:
        """Warm up on a batch, undo whatever that changed, and capture the step.

        Raises:
            UserError: when the step cannot be captured.
        """
        self.optimizer.allocate()
        self.tokens.copy_(torch.from_numpy(batch))
        held = [*self.model.parameters(), *self.model.buffers()]
        before = [tensor.detach().clone() for tensor in held]
        host_rng, device_rng = torch.get_rng_state(), torch.cuda.get_rng_state(self.device)
        side = torch.cuda.Stream(self.device)
        side.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(side):
            for _ in range(WARMUPS_TOGETHER if self.averaged else WARMUPS):
                self._step()
        torch.cuda.current_stream(self.device).wait_stream(side)
        with torch.no_grad():
            for tensor, value in zip(held, before, strict=True):
                tensor.copy_(value)
            for state in self.optimizer.adamw.state.values():
                for tensor in state.values():
                    tensor.zero_()
            self.optimizer.halted.zero_()
        del before
        self.optimizer.adamw.zero_grad(set_to_none=True)
        torch.cuda.synchronize(self.device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)
        if self.graph:
            self._capture()
        torch.set_rng_state(host_rng)
        torch.cuda.set_rng_state(device_rng, self.device)
        torch.cuda.synchronize(self.device)

    def _step(self) -> torch.Tensor:
        return train_step(self.model, self.optimizer, self.tokens, self.micro_batches, self.averaged)

    def _capture(self) -> None:
        self.captured = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(self.captured):
                self.outcome = self._step()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"The training step cannot be captured in a CUDA graph: {reason}. A layer that copies to the host, or allocates "
                "outside torch, is the usual cause. Run it eager with --no-graph; the record then says so."
            ) from error

    def start_clock(self, offset: float) -> None:
        """Let the training clock go on from `offset` seconds; nothing may be in flight."""
        self.offset, self.host_origin = offset, time.perf_counter() - offset
        self.origin = torch.cuda.Event(enable_timing=True)
        self.origin.record(torch.cuda.current_stream(self.device))

    def elapsed(self) -> float:
        """Return the seconds on the host's training clock."""
        return time.perf_counter() - self.host_origin

    def launch(self, batch: np.ndarray, lr: float) -> None:
        """Enqueue a step on a batch, uint8 [B, T+1], at a learning rate; wait first where SLOTS steps are in flight."""
        if len(self.running) == SLOTS:
            self._finish()
        slot, self.slot = self.slot, (self.slot + 1) % SLOTS
        self.staged[slot].numpy()[:] = batch
        self.rates[slot].fill_(lr)
        self.tokens.copy_(self.staged[slot], non_blocking=True)
        self.optimizer.lr.copy_(self.rates[slot], non_blocking=True)
        if self.captured is not None:
            self.captured.replay()
        else:
            self.outcome = self._step()
        self.results[slot].copy_(self.outcome, non_blocking=True)
        self.done[slot].record(torch.cuda.current_stream(self.device))
        self.running.append(slot)

    def _finish(self) -> None:
        slot = self.running.popleft()
        self.done[slot].synchronize()
        loss, norm, halted = self.results[slot].tolist()
        seconds = self.offset + self.origin.elapsed_time(self.done[slot]) / 1000
        self.finished.append(Outcome(loss, norm, halted > 0, seconds))

    def collect(self, wait: bool = False) -> list[Outcome]:
        """Return the steps that finished since the last call, in order; all that were launched if `wait`."""
        while self.running and (wait or self.done[self.running[0]].query()):
            self._finish()
        finished, self.finished = self.finished, []
        return finished


def stepper_on(
    device: torch.device,
    model: torch.nn.Module,
    optimizer: Optimizer,
    training: Training,
    micro_batches: int = 1,
    ranks: Ranks | None = None,
) -> HostStep | DeviceStep:
    """Return what runs the steps of a model on its device; with `ranks`, on this rank's rows.

    Raises:
        UserError: when the batch cannot be cut into that many equal parts.
    """
    ranks = ranks or Ranks()
    check_shares(training.batch, ranks.count, micro_batches)
    averaged = ranks.wrap(model, device)
    if device.type != "cuda":
        return HostStep(model, optimizer, micro_batches, averaged)
    shape = (training.batch // ranks.count, training.chunk + 1)
    return DeviceStep(model, optimizer, shape, device, training.graph, micro_batches, averaged)
