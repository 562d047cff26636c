"""How far a training run is, on stderr: a live line on a terminal, a line every half minute elsewhere."""

import time
from typing import Protocol

from elmanctl.console import err, note
from elmanctl.records import Step

QUIET_SECONDS = 30.0


def clock(seconds: float) -> str:
    """Return a duration as 42s, 3:07 or 1:02:03."""
    minutes, rest = divmod(round(max(seconds, 0)), 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d}" if minutes else f"{rest}s"
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def describe(step: Step, share: float, tokens_per_second: float | None) -> str:
    """Return one line: step, loss, throughput where it is known, and the time that is left."""
    speed = "" if tokens_per_second is None else f"  {tokens_per_second:,.0f} tok/s"
    left = clock(step.seconds * (1 - share) / share) if share > 0 else "?"
    return f"step {step.step}  loss {step.loss:.4f}{speed}  {min(share, 1):.0%} of the budget  {left} left"


class Progress(Protocol):
    """Who wants to know how far a run is; may do nothing."""

    def phase(self, text: str) -> None:
        """Hear what is being done besides steps, for example compiling."""

    def step(self, step: Step, share: float, tokens_per_second: float | None) -> None:
        """Hear of a finished step and of the share of the budget that is spent."""


class Live:
    """Progress for a person; a context manager."""

    def __init__(self):
        self._live = None
        self._began = False
        self._said = time.monotonic()
        if err().is_terminal:
            from rich.progress import BarColumn, Progress, TextColumn

            self._live = Progress(BarColumn(24), TextColumn("{task.description}"), console=err(), transient=True)
            self._task = self._live.add_task("starting", total=1.0)

    def __enter__(self) -> "Live":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *error) -> None:
        if self._live:
            self._live.stop()

    def phase(self, text: str) -> None:
        """Show what is being done besides steps."""
        if self._live:
            self._live.update(self._task, description=text)
        elif not self._began:  # later phases are short and many
            note(text.capitalize())

    def step(self, step: Step, share: float, tokens_per_second: float | None) -> None:
        """Show a finished step."""
        self._began = True
        if self._live:
            text = describe(step, share, tokens_per_second)
            self._live.update(self._task, completed=min(share, 1.0), description=text)
        elif time.monotonic() - self._said > QUIET_SECONDS:
            self._said = time.monotonic()
            note(describe(step, share, tokens_per_second))
