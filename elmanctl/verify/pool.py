"""Worker processes with a time-out for each call: one that hangs or dies loses its own call, and the rest go on.

* On a CPU workers are forked from this process, which has torch and the variant's modules already.
* On CUDA one worker is a fresh process, the only one that touches the device. It is replaced after a fault, from which a process's
  context does not recover, and after a hang.
"""

import contextlib
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import NamedTuple

import torch

DIED = "the process died while this ran (an invalid access, or out of memory)"
SECONDS = 300.0  # of one call, a kernel's compilation included


def cores(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Return how many cores this process may use: its affinity, and no more than its control group's share of time."""
    allowed = len(os.sched_getaffinity(0))
    with contextlib.suppress(OSError, ValueError):
        share, period = map(int, quota.read_text().split())  # "max 100000" where there is none
        allowed = min(allowed, max(1, -(-share // period)))
    return allowed


class Call(NamedTuple):
    """A method of the worker's plan, its arguments, and its own time where it needs another than the rest."""

    method: str
    arguments: tuple = ()
    seconds: float | None = None


@dataclass(frozen=True)
class Lost:
    """A call that gave no result, and why."""

    text: str


class Worker(NamedTuple):
    """A worker: its end of the line, and what ends it at once."""

    line: Connection
    kill: Callable[[], None]


def send(line: Connection, what) -> None:
    """Send by value. A connection's own way would share the memory of tensors, with processes that are not its own too."""
    line.send_bytes(pickle.dumps(what))


def receive(line: Connection):
    """Return what was sent."""
    return pickle.loads(line.recv_bytes())


def gather(
    start: Callable[[], Worker],
    calls: Sequence[Call],
    count: int,
    seconds: float = SECONDS,
    progress: Callable[[int], None] = lambda done: None,
) -> list:
    """Run calls on up to `count` workers; return their results in order, a Lost or an exception in place of one.

    Args:
        start: makes a worker.
        seconds: after which a call is given up and its worker ended.
        progress: called with the number of calls that are done.
    """
    results: list = [None] * len(calls)
    waiting, idle, busy, done = deque(range(len(calls))), [], {}, 0
    try:
        while waiting or busy:
            while waiting and len(busy) < count:
                worker, index = idle.pop() if idle else start(), waiting.popleft()
                busy[worker.line] = (worker, index, time.monotonic() + (calls[index].seconds or seconds))
                with contextlib.suppress(OSError):  # one that is gone already is found below
                    send(worker.line, calls[index])
            left = min(deadline for *_, deadline in busy.values()) - time.monotonic()
            for line in wait(list(busy), max(0.0, left)):
                worker, index, _ = busy.pop(line)
                try:
                    results[index], fit = receive(line)
                except (EOFError, OSError):
                    results[index], fit = Lost(DIED), False
                idle.append(worker) if fit else worker.kill()
                done += 1
                progress(done)
            for line, (worker, index, deadline) in list(busy.items()):
                if time.monotonic() >= deadline:
                    del busy[line]
                    worker.kill()
                    results[index] = Lost(f"no end within {calls[index].seconds or seconds:.0f} s: it hangs")
                    done += 1
                    progress(done)
    finally:
        for worker in (*idle, *(w for w, *_ in busy.values())):
            worker.kill()
    return results


def serve(line: Connection, plan, fit: Callable[[], bool] = lambda: True) -> None:
    """Answer calls until the line closes, each with (result or exception, whether this process can go on)."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            call = receive(line)
            try:
                result = getattr(plan, call.method)(*call.arguments)
            except Exception as error:  # the caller decides what it means
                result = _sendable(error)
            good = fit()
            send(line, (result, good))
            if not good:
                return


def _sendable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")


def prepare(every: bool = False) -> None:
    """Import what torch itself imports at a first gradient (and at a first opcheck), before processes are forked that would each do so."""
    import torch.fx.experimental.symbolic_shapes

    if every:
        import torch.testing._internal.optests

        # A place inside torch, which opcheck comes to and another release may lack.
        with contextlib.suppress(ImportError):
            import torch._inductor.pattern_matcher  # noqa: F401


def forked(plan) -> Worker:
    """Return a worker forked from this process."""
    prepare()
    mine, theirs = multiprocessing.Pipe()

    def run() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted, and ends its workers
        torch.set_num_threads(1)
        mine.close()
        serve(theirs, plan)

    process = multiprocessing.get_context("fork").Process(target=run, daemon=True)
    process.start()
    theirs.close()

    def kill() -> None:
        mine.close()
        process.kill()
        process.join()

    return Worker(mine, kill)


def fresh(request) -> Worker:
    """Return a worker that is a process of its own, with a plan made from a request's names."""
    mine, theirs = multiprocessing.Pipe()
    call = [sys.executable, "-m", "elmanctl.verify.pool", str(theirs.fileno())]
    process = subprocess.Popen(call, pass_fds=(theirs.fileno(),), env=os.environ | {"OMP_NUM_THREADS": "1"})
    theirs.close()
    with contextlib.suppress(OSError):
        send(mine, request.spec.name)
        send(mine, {k: v for k, v in vars(request).items() if k != "spec"})

    def kill() -> None:
        mine.close()
        process.kill()
        process.wait()

    return Worker(mine, kill)


def main() -> None:
    """Be a fresh worker: the line is the file descriptor that the command line names."""
    from elmanctl.plugins.registry import registry
    from elmanctl.verify.plan import Plan, Request

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    torch.backends.cudnn.allow_tf32 = False
    line = Connection(int(sys.argv[1]))
    spec = registry().resolve(receive(line))
    plan = Plan(Request(spec, **receive(line)))
    serve(line, plan, _device_answers if plan.request.device == "cuda" else lambda: True)


def _device_answers() -> bool:
    """Return whether this process's context of the device still works: no fault is recovered from."""
    try:
        torch.cuda.synchronize()
        return True
    except RuntimeError:
        return False


if __name__ == "__main__":
    main()
