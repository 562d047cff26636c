"""Carries a planned bench through: preflight, queue, trials, report, and the command at the end."""

import os
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elmanctl.console import note, print_json, print_table
from elmanctl.errors import CheckFailed, UserError
from elmanctl.files import write_json
from elmanctl.names import PREFLIGHT, REPORT
from elmanctl.sizes import short_bytes, short_count


@dataclass(frozen=True)
class Checks:
    """Whether one step of each row is run before anything is queued, whether that is all, and the command to run at the end."""

    preflight: bool
    only: bool
    hook: str | None


def execute(plan, name: str | None, again: bool, limits, checks: Checks, json: bool, slurm=None) -> None:
    """Check that each row can run, queue what is planned, run it and report it."""
    from elmanctl import bench as benching
    from elmanctl import plan as runs
    from elmanctl.gpus.witness import CPU
    from elmanctl.queue import preflight, snapshot
    from elmanctl.queue.enqueue import enqueue, todo

    trials = todo(plan, runs.RUNS / name, again) if name else [p.trial for p in plan.rows if p.trial]
    kept = snapshot.take(runs.RUNS, plan.suite.path, [p.sized.row.spec.variant for p in plan.rows]) if trials else None
    if not checks.only:  # which keeps nothing
        devices = len(trials) if slurm else len(plan.devices)
        preflight.check_disk(runs.RUNS, preflight.disk(trials, devices, limits.checkpoint_seconds))
    findings = []
    if slurm is not None:
        note(
            "No step of a row is tried before it is queued: the GPUs are Slurm's. A batch that does not fit is cut when it is run."
        )
    elif trials and checks.preflight and plan.kind != runs.BATCHES:
        devices = [CPU] if plan.pool is None else preflight.free_now(plan.pool)[: len(plan.devices)]
        groups = {planned.row.label: planned.row.group for planned in plan.rows}
        findings = preflight.steps(trials, devices, snapshot.environment(kept), runs.RUNS, groups) if devices else []
    if checks.only:
        if not trials:
            note("No row is left to try; --again also tries those that are finished.")
        elif not findings:
            raise CheckFailed("No step of a row was tried. Try again when a GPU is free; `elmanctl gpus` shows them.")
        show_preflight(plan, findings, json)
        if name:
            write_json(runs.RUNS / name / PREFLIGHT, preflight_record(plan, findings))
        preflight.check(findings)
        return
    preflight.check(findings)
    plan = benching.fitted(plan, findings)
    folder = runs.start(plan.suite, [planned.row for planned in plan.rows], name, plan.kind)
    for planned in plan.rows:
        if planned.trial is not None and planned.trial.unverified:
            state = benching.receipt(planned, plan.target)
            note(f"{planned.row.label}: receipt for {plan.target}: {state}; the row is marked unverified.")
    queued = enqueue(plan, folder, again, limits, kept, slurm)
    if findings:
        write_json(folder / PREFLIGHT, preflight_record(plan, findings))
    go_on(queued, {planned.row.label for planned in plan.rows}, checks.hook, json)


def preflight_record(plan, findings: list) -> list[dict[str, Any]]:
    """Return each row's size and what one step of it showed, as plain data; or its problem."""
    shown = {finding.label: finding for finding in findings}
    rows = []
    for planned in plan.rows:
        row, finding = planned.row, shown.get(planned.row.label)
        size = {"label": row.label, "model": row.model, "dim": row.dim, "depth": row.depth, "params": row.params}
        if finding is not None:
            rows.append(size | vars(finding))
        elif row.problem:
            rows.append(size | {"status": "not sized", "message": row.problem})
    return rows


def show_preflight(plan, findings: list, json: bool) -> None:
    """Print what one step of each row showed, and why a row has none."""
    rows = preflight_record(plan, findings)
    if json:
        print_json(rows)
        return
    trials = {planned.row.label: planned.trial for planned in plan.rows}
    fits = {finding.label: finding.fit for finding in findings}
    table = [
        [
            r["label"],
            f"{r['dim'] or '?'}x{r['depth']}",
            short_count(r["params"]),
            r["status"],
            short_bytes(r.get("peak_memory")),
            fits[r["label"]].text(trials[r["label"]]) if r["label"] in fits else "",
        ]
        for r in rows
    ]
    columns = ["row", "dim x depth", "params", "one step", "peak memory", "to fit"]
    print_table(columns, table, right=("dim x depth", "params", "peak memory"))
    for r in rows:
        if r["message"]:
            note(f"{r['label']}: {r['message']}")


def go_on(queued, rows: set[str] | None, hook: str | None, json: bool) -> None:
    """Run a queue's jobs and report the run. Ctrl-C stops the trials, keeps their records and leaves with code 130.

    Args:
        queued: what enqueue or resume returned; rows: labels that the exit code speaks of, None for all of the run; hook: command
            to run at the end.
    """
    from elmanctl import bench as benching
    from elmanctl import plan as runs
    from elmanctl.queue.live import Watch
    from elmanctl.queue.log import Queue
    from elmanctl.queue.scheduler import Scheduler

    folder = queued.folder
    note(f"Run {folder}")
    for text in queued.notes:
        note(text)
    queue = Queue(folder).refresh()
    with Watch() as watch:
        scheduler = Scheduler(queue, watch.observe)
        try:
            scheduler.run(queued.labels)
        except KeyboardInterrupt:
            note(stopped(folder, scheduler.chief))
            raise
    if text := queue.complaint():
        note(text)
    bad = benching.not_ok(rows, folder)
    try:
        show_report(folder, runs.BATCHES if runs.is_batches(folder) else "suite", json)
    finally:  # whoever waits for it hears of the end also where the report cannot be written
        call_hook(hook, folder, bad)
    if bad:
        raise CheckFailed(f"Not ok: {'; '.join(bad)}. Each row's folder in {folder} has its log.txt.")


def stopped(folder: Path, chief: str) -> str:
    """Return what is said after Ctrl-C: what was stopped, and how to go on."""
    if chief:
        return f"No longer watching. {folder} goes on under another bench ({chief})."
    return f"Stopped. `elmanctl report {folder.name}` shows what there is; `elmanctl bench --resume {folder.name}` goes on."


def check_hook(hook: str | None) -> None:
    """Refuse a command that cannot be read or found, before the night and not after it.

    Raises:
        UserError: with what is wrong with it.
    """
    if hook is None:
        return
    try:
        words = shlex.split(hook)
    except ValueError as error:
        raise UserError(
            f"--on-end {hook}: {error}. It is split into words as a shell does, and run without one."
        ) from None
    if not words or shutil.which(words[0]) is None:
        raise UserError(
            f"--on-end {hook!r}: there is no command {words[0] if words else ''} here. Give one by name or path."
        )


def call_hook(hook: str | None, folder: Path, bad: list[str]) -> None:
    """Run the command of --on-end, without a shell; what becomes of it changes nothing but is said."""
    if hook is None:
        return
    told = {"ELMANCTL_RUN": str(folder), "ELMANCTL_OK": "0" if bad else "1", "ELMANCTL_NOT_OK": "; ".join(bad)}
    try:
        code = subprocess.run(shlex.split(hook), env={**os.environ, **told}, stdin=subprocess.DEVNULL).returncode
    except OSError as error:
        code = error.strerror
    if code:
        note(f"--on-end {hook}: {code if isinstance(code, str) else f'exit code {code}'}.")


def show_report(folder: Path, kind: str, json: bool) -> None:
    """Print a run's report and leave it as report.md in its folder."""
    from elmanctl import plan as runs
    from elmanctl.files import atomic
    from elmanctl.report import batches, render, rows

    form, show = (batches, batches.print_cells) if kind == runs.BATCHES else (render, render.print_report)
    report = (batches if kind == runs.BATCHES else rows).build(folder)
    with atomic(folder / REPORT) as file:
        file.write(form.markdown(report))
    if json:
        print(form.as_json(report), end="")
    else:
        show(report)
    note(f"Report: {folder / REPORT}")
