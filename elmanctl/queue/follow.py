"""The steps that a running trial has added to its steps.jsonl since the last look."""

import contextlib
import os
from pathlib import Path

import msgspec

from elmanctl.files import DAMAGED
from elmanctl.records import Budget, Step

WINDOW = 20  # steps over which the shown speed is taken


class Follower:
    """Reads the steps that a running trial has added to its steps.jsonl since the last look."""

    def __init__(self, path: Path):
        self.path = path
        self.steps: list[Step] = []
        self._offset = self._inode = 0
        self._decode = msgspec.json.Decoder(Step).decode

    def update(self) -> None:
        """Read complete new lines; a line still being written is left for the next look."""
        with contextlib.suppress(FileNotFoundError), self.path.open("rb") as file:
            if (inode := os.fstat(file.fileno()).st_ino) != self._inode:  # written anew, to go on from a checkpoint
                self.steps, self._offset, self._inode = [], 0, inode
            file.seek(self._offset)
            whole, newline, _ = file.read().rpartition(b"\n")
            self._offset += len(whole) + len(newline)
            for line in whole.splitlines():
                with contextlib.suppress(*DAMAGED):  # half a line of a killed process
                    self.steps.append(self._decode(line))

    @property
    def speed(self) -> float | None:
        """Target tokens per second over the last steps."""
        last = self.steps[-WINDOW - 1 :]
        seconds = last[-1].seconds - last[0].seconds if len(last) > 1 else 0
        return sum(step.tokens for step in last[1:]) / seconds if seconds > 0 else None

    def remaining(self, budget: Budget) -> float | None:
        """Return the seconds that the budget still allows or needs at the present speed."""
        if not self.steps:
            return None
        if budget.minutes is not None:
            return max(0.0, budget.minutes * 60 - self.steps[-1].seconds)
        if (speed := self.speed) is None:
            return None
        done = sum(step.tokens for step in self.steps)
        total = budget.tokens if budget.tokens is not None else budget.steps * self.steps[-1].tokens
        return max(0.0, (total - done) / speed)
