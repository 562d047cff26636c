"""What is shown on stderr while a run goes on: a live view on a terminal, a line for each change elsewhere."""

import re
import time
from pathlib import Path

from elmanctl.console import err, note
from elmanctl.queue.follow import Follower
from elmanctl.queue.scheduler import Scheduler
from elmanctl.queue.states import ACTIVE, ENDED, RUNNING, STARTING, Job
from elmanctl.runlog import STEPS
from elmanctl.sizes import short_bytes, short_count

REFRESH_SECONDS = 0.5
WHOLE = ("ok", "contaminated")  # trials that went to their end, by which the others are reckoned
# After a job began or ended GPUs are given back and taken again: why others wait then is not worth a line.
SETTLE_SECONDS = 10.0
MEMORY = re.compile(r"; [^;()]+iB\)")  # in why a GPU is not free: it changes while its reason stays
MOST_ROWS = 40  # of jobs that wait or have ended, so that a long queue leaves the running ones in sight


class Watch:
    """Shows a scheduler. Use as a context manager and pass `observe` to Scheduler."""

    def __init__(self):
        self._live = None
        self._followers: dict[Path, Follower] = {}
        self._told: dict[str, str] = {}
        self._begun: dict[str, int] = {}  # the attempt of each job that is told already
        self._next = 0.0
        self._moved = -SETTLE_SECONDS

    def __enter__(self) -> "Watch":
        if err().is_terminal:
            from rich.live import Live

            self._live = Live(console=err(), auto_refresh=False)
            self._live.start()
        return self

    def __exit__(self, *_) -> None:
        if self._live is not None:
            self._live.stop()

    def observe(self, now: Scheduler) -> None:
        """Bring the display up to date."""
        if self._live is None:
            self._tell(now)
        elif time.monotonic() >= self._next:
            self._next = time.monotonic() + REFRESH_SECONDS
            self._live.update(self.view(now), refresh=True)

    def view(self, now: Scheduler):
        """Return the whole view: jobs, GPUs, and a line on the run."""
        from rich.console import Group

        parts = [self.table(now)]
        if now.sampler is not None:
            parts += ["", self.gpus(now)]
        return Group(*parts, "", self.summary(now))

    def table(self, now: Scheduler):
        """Return the table of jobs: running first where there are many, with loss, speed and time left."""
        table = _table(("row", "state", "step", "loss", "tok/s", "ETA"), left=2)
        jobs = list(now.queue.jobs.values())
        shown = jobs if len(jobs) <= MOST_ROWS else sorted(jobs, key=lambda job: job.state not in ACTIVE)[:MOST_ROWS]
        names = _names(now)
        for job in shown:
            last = speed = left = None
            if job.state in (*ACTIVE, ENDED):
                follower = self._follower(now.queue.run / job.spec.folder)
                last = follower.steps[-1] if follower.steps else None
                speed = follower.speed
                left = follower.remaining(job.spec.trial.budget) if job.state == RUNNING else None
            table.add_row(
                job.label,
                _state(job, now, names),
                "" if last is None else f"{last.step}",
                "" if last is None else f"{last.loss:.4f}",
                "" if speed is None else short_count(round(speed)),
                "" if left is None else clock(left),
            )
        if len(jobs) > len(shown):
            table.add_row(f"and {len(jobs) - len(shown)} more", "", "", "", "", "")
        return table

    def gpus(self, now: Scheduler):
        """Return the table of the run's GPUs: who has each, or why it is not used."""
        table = _table(("GPU", "memory", "used", "state"), left=1)
        wanted = {uuid for job in now.queue.jobs.values() if job.spec.pool for uuid in job.spec.pool.uuids}
        mine = {uuid: job.label for job in now.queue.jobs.values() if job.state in ACTIVE for uuid in job.devices}
        for gpu in now.sampler.box:
            if gpu.uuid in wanted:
                reasons = now.sampler.reasons(gpu.uuid) if gpu.uuid not in mine else ()
                state = mine.get(gpu.uuid) or "; ".join(f"{r.name}: {r.text}" for r in reasons) or "free"
                table.add_row(f"{gpu.index} {gpu.name}", short_bytes(gpu.memory_used), f"{gpu.utilisation} %", state)
        return table

    def summary(self, now: Scheduler) -> str:
        """Return one line: how many jobs are where, and when the whole run may be done."""
        jobs = now.queue.jobs.values()
        count = {state: sum(job.state == state for job in jobs) for state in dict.fromkeys(job.state for job in jobs)}
        text = ", ".join(f"{number} {state}" for state, number in count.items())
        left = self.remaining(now)
        return f"{text}{'' if left is None else f'; about {clock(left)} left'}{f'; scheduled by {now.chief}' if now.chief else ''}"

    def remaining(self, now: Scheduler) -> float | None:
        """Return the seconds until the run may be done, as if every waiting job took as long as the ones that are known."""
        jobs = list(now.queue.jobs.values())
        running, known = [], []
        for job in jobs:
            if job.state in (RUNNING, ENDED):
                follower = self._follower(now.queue.run / job.spec.folder)
                left = follower.remaining(job.spec.trial.budget)
                if job.state == RUNNING and left is not None:
                    running.append(left)
                if follower.steps and (job.state == RUNNING or job.status in WHOLE):
                    known.append(follower.steps[-1].seconds + (left or 0.0) * (job.state == RUNNING))
        open_jobs = sum(job.state not in (*ACTIVE, ENDED) for job in jobs)
        if not running and not open_jobs:
            return None
        mean = sum(known) / len(known) if known else None
        if open_jobs and mean is None:
            return None
        return (sum(running) + open_jobs * (mean or 0.0)) / max(1, len(running))

    def _follower(self, folder: Path) -> Follower:
        follower = self._followers.setdefault(folder, Follower(folder / STEPS))
        follower.update()
        return follower

    def _tell(self, now: Scheduler) -> None:
        names, waiting = _names(now), {}
        for job in now.queue.jobs.values():
            text = _state(job, now, names, counting=False)
            begun = self._begun.setdefault(job.label, job.attempt - (job.state in ACTIVE))
            started = f"started on {_place(job, names)}"
            if job.state == ENDED:
                if self._told.get(job.label, "").startswith(f"{job.status} after"):
                    continue
                follower = self._followers.setdefault(
                    Path(job.label), Follower(now.queue.run / job.spec.folder / STEPS)
                )
                follower.update()
                if job.attempt > begun and job.child is not None:  # it ran between two looks
                    note(f"{job.label}: {started}")
                    self._begun[job.label] = job.attempt
                self._note([job.label], f"{job.status} after {len(follower.steps)} steps")
            elif job.state in ACTIVE and job.label in now.waiting:
                self._note([job.label], now.waiting[job.label])
            elif job.state == RUNNING:
                self._begun[job.label] = job.attempt
                self._note([job.label], started)
            elif job.state != STARTING and text != "queued" and not text.startswith("waits for"):
                waiting.setdefault(text, []).append(job.label)
        for text, labels in waiting.items():
            if time.monotonic() - self._moved >= SETTLE_SECONDS or not text.startswith("waits"):
                self._note(labels, text, moved=False)
        if now.chief and self._told.get("") != now.chief:
            self._told[""] = now.chief
            note(f"Another bench schedules this run ({now.chief}); this one watches.")

    def _note(self, labels: list[str], text: str, moved: bool = True) -> None:
        """Tell what is new of jobs, those with one text in one line."""
        plain = MEMORY.sub(")", text)
        new = [label for label in labels if self._told.get(label) != plain]
        if not new:
            return
        self._told |= dict.fromkeys(new, plain)
        note(f"{new[0]}{f' and {len(new) - 1} more' if len(new) > 1 else ''}: {text}")
        if moved:
            self._moved = time.monotonic()


def _names(now: Scheduler) -> dict[str, str]:
    return {gpu.uuid: f"GPU {gpu.index}" for gpu in now.sampler.box} if now.sampler else {}


def _place(job: Job, names: dict[str, str]) -> str:
    return ", ".join(names.get(device, device) for device in job.devices)


def _state(job: Job, now: Scheduler, names: dict[str, str], counting: bool = True) -> str:
    """Return what a job does or waits for; `counting` with what changes every second."""
    if job.state == ENDED:
        return f"{job.status}{f': {job.why[:100]}' if job.status != 'ok' and job.why else ''}"
    if job.state in (STARTING, RUNNING):
        place = _place(job, names)
        asked = {"": "", "cancel": ", being cancelled", "stop": ", stopping"}[job.asked]
        what = f": {now.waiting[job.label]}" if job.label in now.waiting else ""  # Slurm's reason, or a disk in trouble
        return f"{place}{f', {clock(time.time() - job.since)}' if counting else ''}{asked}{what}"
    text = now.waiting.get(job.label, job.state)
    return text if counting or not text.startswith("again in") else f"tried again: {job.why}"


def _table(headings: tuple[str, ...], left: int):
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="left" if number < left or heading == "state" else "right")
    return table


def clock(seconds: float) -> str:
    """Return a duration as 3:07 or 1:02:03."""
    minutes, seconds = divmod(round(max(seconds, 0.0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
