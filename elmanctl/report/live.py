"""What is shown on stderr while trials run: a live table on a terminal, a line for each start and end elsewhere."""

import contextlib
import time
from pathlib import Path

import msgspec

from elmanctl.console import err, note
from elmanctl.records import Budget, Step
from elmanctl.schedule import Schedule
from elmanctl.sizes import short_count

REFRESH_SECONDS = 0.5
WINDOW = 20  # steps over which the shown speed is taken


class Follower:
    """Reads the steps that a running trial has added to its steps.jsonl since the last look."""

    def __init__(self, path: Path):
        self.path = path
        self.steps: list[Step] = []
        self._offset = 0
        self._decode = msgspec.json.Decoder(Step).decode

    def update(self) -> None:
        """Read complete new lines; a line still being written is left for the next look."""
        with contextlib.suppress(FileNotFoundError), self.path.open("rb") as file:
            file.seek(self._offset)
            whole, newline, _ = file.read().rpartition(b"\n")
            self._offset += len(whole) + len(newline)
            self.steps += [self._decode(line) for line in whole.splitlines() if line]

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


class Watch:
    """Shows a schedule. Use as a context manager and pass `observe` to Schedule."""

    def __init__(self):
        self._live = None
        self._followers: dict[Path, Follower] = {}
        self._told: set[str] = set()
        self._next = 0.0

    def __enter__(self) -> "Watch":
        if err().is_terminal:
            from rich.live import Live

            self._live = Live(console=err(), auto_refresh=False)
            self._live.start()
        return self

    def __exit__(self, *_) -> None:
        if self._live is not None:
            self._live.stop()

    def observe(self, schedule: Schedule) -> None:
        """Bring the display up to date."""
        if self._live is None:
            self._tell(schedule)
            return
        if time.monotonic() < self._next and schedule.running:
            return
        self._next = time.monotonic() + REFRESH_SECONDS
        self._live.update(self.table(schedule), refresh=True)

    def table(self, schedule: Schedule):
        """Return the table of a schedule's rows: finished, running, waiting."""
        from rich.table import Table

        table = Table(box=None, header_style="bold", pad_edge=False)
        for heading in ("row", "status", "step", "loss", "tok/s", "ETA"):
            table.add_column(heading, justify="left" if heading in ("row", "status") else "right")
        for job, result in schedule.finished:
            loss = result.last100_loss
            speed = result.tokens_per_second
            table.add_row(
                job.trial.label,
                result.status,
                f"{result.steps}",
                "" if loss is None else f"{loss:.4f}",
                "" if speed is None else short_count(round(speed)),
                "",
            )
        for running in schedule.running:
            follower = self._follower(running.job.folder)
            last = follower.steps[-1] if follower.steps else None
            speed, left = follower.speed, follower.remaining(running.job.trial.budget)
            table.add_row(
                running.job.trial.label,
                f"{running.device.label}, {_clock(time.monotonic() - running.started)}",
                "starting" if last is None else f"{last.step}",
                "" if last is None else f"{last.loss:.4f}",
                "" if speed is None else short_count(round(speed)),
                "" if left is None else _clock(left),
            )
        for job in schedule.waiting:
            table.add_row(job.trial.label, "waiting", "", "", "", "")
        for label, reason in schedule.held.items():
            table.add_row(label, f"not used: {reason}", "", "", "", "")
        return table

    def _follower(self, folder: Path) -> Follower:
        follower = self._followers.setdefault(folder, Follower(folder / "steps.jsonl"))
        follower.update()
        return follower

    def _tell(self, schedule: Schedule) -> None:
        lines = [f"{r.job.trial.label}: started on {r.device.label}" for r in schedule.running]
        lines += [f"{job.trial.label}: {result.status} after {result.steps} steps" for job, result in schedule.finished]
        lines += [f"{label} is not used: {reason}" for label, reason in schedule.held.items()]
        for line in lines:
            if line not in self._told:
                self._told.add(line)
                note(line)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
