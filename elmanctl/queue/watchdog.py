"""When a trial that still runs has to be ended: it takes too long, or no step has come for too long."""

import itertools
import statistics
import time
from pathlib import Path

from elmanctl.queue.follow import Follower

SETUP_SECONDS = 1800.0  # until the first step: imports, builds, compilation, capture
HANG_SECONDS = 600.0  # between two steps: evaluation and checkpoints come there too
HANG_STEPS = 50.0  # or so many times the median step, where that is longer
MEDIAN_OF = 101


class Watchdog:
    """Watches the steps of one attempt.

    Args:
        steps: the trial's steps.jsonl.
        wall_seconds: longest time of an attempt, 0 for no limit.
        clock: a monotonic clock.
    """

    def __init__(self, steps: Path, wall_seconds: float, clock=time.monotonic):
        self._follower = Follower(steps)
        self._wall, self._clock = wall_seconds, clock
        self._began = self._last = clock()
        self._seen = 0

    def limit(self) -> str:
        """Return which limit is passed, an empty text while none is."""
        now = self._clock()
        self._follower.update()
        steps = self._follower.steps
        if len(steps) != self._seen:
            self._seen, self._last = len(steps), now
        if self._wall and now - self._began > self._wall:
            return f"The trial took longer than its limit of {self._wall / 60:.3g} minutes."
        quiet, allowed = now - self._last, self.allowed()
        if quiet > allowed:
            since = f"since step {steps[-1].step}" if steps else "since it started"
            return f"No step for {quiet:.0f} s {since} (limit {allowed:.0f} s); the stacks are in log.txt."
        return ""

    def allowed(self) -> float:
        """Return how many seconds may pass without a step."""
        seconds = [step.seconds for step in self._follower.steps[-MEDIAN_OF:]]
        if not seconds:
            return SETUP_SECONDS
        lengths = [after - before for before, after in itertools.pairwise(seconds)]
        return max(HANG_SECONDS, HANG_STEPS * statistics.median(lengths)) if lengths else SETUP_SECONDS
