"""Several processes (ranks) that train one trial together, each on a GPU of its own, or with gloo on the CPU.

* `launch` starts them through torch's elastic launcher, which is what torchrun runs; `join` tells a process which one it is.
* Rank 0 leads: before each step it tells the others whether the step is taken and at which rate, and it alone writes records and
  checkpoints. So clocks, signals and a full disk count on rank 0 only, and no rank waits for a step that another does not take.
* Each rank takes its rows of the one global batch; DDP averages the gradients, and `mean` the loss.
"""

import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from elmanctl.errors import UserError
from elmanctl.files import read_json
from elmanctl.records import Result, Trial
from elmanctl.runlog import RESULT, rank_folder

STOP_SECONDS = 60  # for the ranks to end their step and write a checkpoint; as long as a single trial has
STEP, DONE, INTERRUPTED, DIVERGED = range(4)


class Turn(NamedTuple):
    """What rank 0 decides before a step: STEP, or why there is none; the learning rate; whether a checkpoint follows."""

    what: int
    lr: float = 0.0
    save: bool = False


class Ranks:
    """This process's place among those of its trial, from 0, and how many there are; alone, every call is the plain thing."""

    def __init__(self, rank: int = 0, count: int = 1):
        self.rank, self.count = rank, count

    @property
    def first(self) -> bool:
        """Whether this rank leads and records."""
        return self.rank == 0

    def device(self, name: str) -> str:
        """Return the name of this rank's device: `cuda:1` where `cuda` is asked for."""
        return f"{name}:{self.rank}" if self.count > 1 and name == "cuda" else name

    def rows(self, batch):
        """Return this rank's rows of a batch, [B, ...] -> [B / count, ...]."""
        size = len(batch) // self.count
        return batch[self.rank * size : (self.rank + 1) * size]

    def lead(self, decide: Callable[..., Turn], *arguments) -> Turn:
        """Return what rank 0 decides; `decide` is called there alone."""
        if self.count == 1:
            return decide(*arguments)
        told = torch.tensor(decide(*arguments) if self.first else Turn(DONE), dtype=torch.float64)
        dist.broadcast(told, 0)
        what, lr, save = told.tolist()
        return Turn(int(what), lr, bool(save))

    def same(self, value: Any) -> Any:
        """Return rank 0's value of something small."""
        if self.count == 1:
            return value
        held = [value]
        dist.broadcast_object_list(held, 0)
        return held[0]

    def wrap(self, model: torch.nn.Module, device: torch.device) -> "Averaged | None":
        """Return the way to a model's loss on which the ranks' gradients are averaged; None where there is one rank."""
        return Averaged(self, model, device) if self.count > 1 else None

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """Return the mean of a tensor over the ranks."""
        if self.count > 1:
            value = value.clone()
            dist.all_reduce(value)
            value /= self.count
        return value

    def share(self, items: list) -> list:
        """Return this rank's part of a list; `gather` takes what became of it."""
        return items[self.rank :: self.count]

    def gather(self, numbers: list[float], total: int) -> list[float]:
        """Return the numbers that all ranks found for their shares, in the order of the whole list."""
        if self.count == 1:
            return numbers
        found = torch.zeros(total, dtype=torch.float64)
        found[self.rank :: self.count] = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(found)
        return found.tolist()

    def leave(self) -> None:
        """Wait until every rank has come to the end."""
        if self.count > 1:
            dist.all_reduce(torch.zeros(()))


class Averaged:
    """A model's loss whose backward pass leaves the mean of all ranks' gradients: DistributedDataParallel.

    Args:
        ranks: this rank; model: a LadderLM on `device`, the same on every rank (rank 0's weights are sent to the others).
    """

    def __init__(self, ranks: Ranks, model: torch.nn.Module, device: torch.device):
        from torch.nn.parallel import DistributedDataParallel

        torch._dynamo.config.optimize_ddp = False  # only pieces of the model are compiled: there is nothing to divide
        self.mean = ranks.mean
        if device.type != "cuda":
            self._ddp = DistributedDataParallel(_Loss(model), gradient_as_bucket_view=True)
            return
        side = torch.cuda.Stream(device)  # a graph cannot take in what was tied to the default stream
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            self._ddp = DistributedDataParallel(_Loss(model), device_ids=[device.index], gradient_as_bucket_view=True)
        torch.cuda.current_stream(device).wait_stream(side)

    def loss(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the mean loss of this rank's rows."""
        return self._ddp(tokens)

    def part(self, last: bool):
        """Return a context for one micro-batch; gradients are exchanged once, with the last."""
        return contextlib.nullcontext() if last else self._ddp.no_sync()


class _Loss(torch.nn.Module):
    """A model's loss as a module's forward pass, which is what DDP wraps."""

    def __init__(self, model: torch.nn.Module):
        super().__init__()
        self.model = model

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.model.loss(tokens)[0]


def join(trial: Trial) -> Ranks:
    """Return this process's place, having met the others.

    Raises:
        UserError: for a trial of several ranks that no launcher started.
    """
    if trial.ranks == 1:
        return Ranks()
    if "RANK" not in os.environ:
        raise UserError(
            f"{trial.label} is trained by {trial.ranks} processes. Start it with `python -m elmanctl.trial FOLDER`."
        )
    cuda = trial.device.startswith("cuda")
    rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if cuda:
        if torch.cuda.device_count() < count:
            raise UserError(f"{trial.label} needs {count} GPUs; torch sees {torch.cuda.device_count()}.")
        os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0")  # its watchdog would break the capture of a graph
        torch.cuda.set_device(rank)
    # What is told between steps goes through gloo: NCCL would wait for the device.
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
    return Ranks(rank, count)


def launch(count: int, folder: Path, arguments: list[str]) -> int:
    """Run a trial by several processes and return the exit code of the whole; result.json is then as one process leaves it.

    A rank that fails ends the others. What the record says is the first failure, not the broken connections that follow from it.
    Killed from outside, the whole ends by the same signal.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(STOP_SECONDS))
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # one machine; its own name may lead nowhere
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id="elmanctl",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
    )
    own = [rank_folder(folder, rank) for rank in range(1, count)]
    for place in own:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
    signal.signal(signal.SIGUSR1, _pass_on)
    try:
        elastic_launch(config, sys.executable)("-m", "elmanctl.trial", "--one-of-several", *arguments)
        return 0
    except SignalException:
        return 1
    except ChildFailedError as error:
        return settle(folder, {rank: failure.exitcode for rank, failure in error.failures.items()})
    finally:
        for place in own:
            shutil.rmtree(place, ignore_errors=True)


def settle(folder: Path, codes: dict[int, int]) -> int:
    """Leave the first failure of the ranks as the trial's result and return the exit code of the whole.

    Args:
        codes: of the ranks that failed, negative for a signal. SIGTERM, and SIGKILL after it, come from the launcher once a rank has failed.
    """
    told = {rank: rank_folder(folder, rank) / RESULT for rank in codes if (rank_folder(folder, rank) / RESULT).exists()}
    killed = [code for rank, code in codes.items() if code < 0 and -code != signal.SIGTERM and rank not in told]
    causes = {rank: path for rank, path in told.items() if not _follows(path)}
    if killed and not causes:
        (folder / RESULT).unlink(missing_ok=True)
        return killed[0]
    if found := causes or told:
        first = min(found, key=lambda rank: found[rank].stat().st_mtime_ns)
        if first:
            os.replace(found[first], folder / RESULT)
        return codes[first]
    return next(iter(codes.values()))


LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "NCCL", "DistBackendError")


def _follows(path: Path) -> bool:
    """Return whether a rank's failure only says that another rank is gone."""
    try:
        result = read_json(path, Result)
    except UserError:
        return True
    return result.status == "failed" and any(text in result.message for text in LOST)


def _pass_on(number: int, frame) -> None:
    import psutil

    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            child.send_signal(number)
