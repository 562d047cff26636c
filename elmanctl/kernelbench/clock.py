"""Times on a GPU: CUDA-graph replay, inputs rotated past the cache, contenders interleaved A B A B, median and quantiles.

What no graph can hold is launched.
"""

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

ROUNDS, LEAST_ROUNDS = 40, 5
WARM_ROUNDS = 3
L2_TIMES = 3  # the rotated inputs are together at least this many times the second-level cache
ALONE_TIMES = 16  # one set that is so many times as large leaves nothing of itself in the cache for its next turn


@dataclass(frozen=True)
class Timing:
    """Microseconds of one pass: the median and the 10 and 90 per cent quantiles over the rounds."""

    median: float
    low: float
    high: float


def summary(samples: list[float]) -> Timing:
    """Return median and quantiles of at least two samples."""
    tenths = statistics.quantiles(samples, n=10, method="inclusive")
    return Timing(statistics.median(samples), tenths[0], tenths[8])


def rotations(bytes_of_one: int, device: torch.device) -> int:
    """Return how many sets of inputs to rotate through, so that none of them is still in the cache when its turn comes."""
    cache = torch.cuda.get_device_properties(device).L2_cache_size
    least = 1 if bytes_of_one >= ALONE_TIMES * cache else 2
    return max(least, min(16, -(-L2_TIMES * cache // max(bytes_of_one, 1))))


def captured(call: Callable[[int], object], count: int) -> torch.cuda.CUDAGraph:
    """Return a graph of `count` passes, call(0) to call(count - 1), after two eager runs in which libraries tune and compile."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            for number in range(count):
                call(number)
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for number in range(count):
            call(number)
    return graph


class Launched:
    """`count` passes, call(0) to call(count - 1), that are launched anew each time, behind a graph's `replay`; after two runs as `captured` makes."""

    def __init__(self, call: Callable[[int], object], count: int):
        self.call, self.count = call, count
        for _ in range(2):
            self.replay()
        torch.cuda.synchronize()

    def replay(self) -> None:
        for number in range(self.count):
            self.call(number)


def rounds_within(seconds: float, cost: float) -> int:
    """Return how often something that takes `cost` seconds is repeated: ROUNDS times, or less often to end in `seconds`."""
    return max(LEAST_ROUNDS, min(ROUNDS, int(seconds / cost) if cost * ROUNDS > seconds else ROUNDS))


def interleaved(graphs: list[torch.cuda.CUDAGraph | Launched], count: int, seconds: float = math.inf) -> list[Timing]:
    """Replay the graphs in turn, over and over for about `seconds` at most; return the time of one of each graph's `count` passes."""
    for _ in range(WARM_ROUNDS):
        torch.cuda.synchronize()
        start = time.monotonic()
        for graph in graphs:
            graph.replay()
        torch.cuda.synchronize()
    rounds = rounds_within(seconds, time.monotonic() - start)
    marks = [[(torch.cuda.Event(True), torch.cuda.Event(True)) for _ in graphs] for _ in range(rounds)]
    for round_marks in marks:
        for graph, (start, end) in zip(graphs, round_marks, strict=True):
            start.record()
            graph.replay()
            end.record()
    torch.cuda.synchronize()
    return [
        summary([1000 * start.elapsed_time(end) / count for start, end in (m[number] for m in marks)])
        for number in range(len(graphs))
    ]
