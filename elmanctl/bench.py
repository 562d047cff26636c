"""Bench: from a suite to trials on devices. Everything that can be refused is refused before the first trial starts."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from elmanctl import gpus, plan, seeds, toolchain
from elmanctl import suite as suites
from elmanctl.errors import UserError
from elmanctl.gpus import choice, free
from elmanctl.records import Budget, Training, Trial, check_shares

# Of a dry run on a machine without GPUs.
ASSUMED_CAPABILITY = (9, 0)
# Enough for a throughput after the first 20 steps.
BATCH_STEPS = 60


@dataclass(frozen=True)
class Planned:
    """One row about to run: its sized model, its entry in the run, and its trial (None where it cannot be built here)."""

    sized: suites.Sized
    row: plan.PlannedRow
    trial: Trial | None


@dataclass(frozen=True)
class Bench:
    """A suite with its rows sized, its devices chosen and its budget fixed.

    Args:
        kind: `suite` or plan.BATCHES.
        pool: the GPUs that trials may use, None for the CPU or in a dry run that found none; devices: their names for people.
        target: build target of the device: `sm_90a`, or `host`.
        obstacles: what a dry run found that would stop the real one.
    """

    suite: suites.Suite
    rows: tuple[Planned, ...]
    pool: choice.Pool | None
    devices: tuple[str, ...]
    target: str
    kind: str = "suite"
    obstacles: tuple[str, ...] = field(default=())


def prepare(
    name: str,
    gpu_text: str | None,
    budget: Budget | None,
    only: list[str],
    batches: list[int],
    dry_run: bool,
    wait: bool = False,
    unverified: bool = False,
    repeats: int | None = None,
    params: int | None = None,
    ranks: int | None = None,
    slurm: bool = False,
) -> Bench:
    """Load, size and check a suite, and choose its devices.

    Args:
        gpu_text: what --gpus says, None if it was not given.
        budget: in place of the suite's.
        only: labels or model names of the rows to run; empty for all.
        batches: batch sizes for a throughput table; empty for a normal run.
        wait: let trials wait for GPUs that are in use now.
        dry_run: report missing devices, data and receipts as obstacles instead of refusing.
        unverified: run kernels without a receipt too; their trials say so for good.
        ranks: GPUs that train one row together, in place of the suite's.
        slurm: let Slurm choose the devices. Receipts are then asked for the GPUs of this machine, or for sm_90a.
        repeats: seeds of each row, in place of the suite's; a table against batch takes the first.
        params: size every row anew to so many parameters; a row that no legal width brings there has that as its problem.
    Raises:
        UserError: for anything that would make the run fail or be unfair.
    """
    suite = suites.load(name, repeats)
    if ranks is not None:
        suite = replace(suite, ranks=ranks)
    for rows in batches or [suite.training.batch]:
        check_shares(rows, suite.ranks)
    chosen = seeds.choose(suite, only)
    if params is None:
        rows = suites.sized(suite)
        suites.check_sizes(suite, rows)
    else:
        suite = suites.resized(suite, params)
        rows = [sized_or_why(suite, row) for row in suite.rows]
    on_cpu = suite.device == "cpu" and gpu_text is None
    obstacles: list[str] = []

    def need(check):
        """Return what a check returns; in a dry run its refusal becomes an obstacle."""
        try:
            return check()
        except UserError as error:
            if not dry_run:
                raise
            obstacles.append(str(error))
            return None

    if on_cpu:
        pool, devices, target = None, ("CPU",), "host"
    elif slurm:
        box = gpus.gpus()
        pool, devices, target = None, ("Slurm",), box[0].target if box else toolchain.device_target(*ASSUMED_CAPABILITY)
    else:
        sampler = free.Sampler().settle()
        box = sampler.box
        pool = need(lambda: choice.select(gpu_text, box, sampler.reasons, wait))
        if pool is None and gpu_text is not None:  # a dry run shows what was asked for
            box = box or choice.assumed(gpu_text, ASSUMED_CAPABILITY)
            pool = choice.parse(gpu_text, box)
        if pool is not None:
            need(lambda: check_room(pool, suite.ranks))
        order = {uuid: number for number, uuid in enumerate(pool.uuids if pool else ())}
        chosen_gpus = sorted((gpu for gpu in box if gpu.uuid in order), key=lambda gpu: order[gpu.uuid])
        devices = tuple(f"GPU {gpu.index}" for gpu in chosen_gpus)[: pool.most if pool else None]
        target = box[0].target if box else toolchain.device_target(*ASSUMED_CAPABILITY)
    training = suite.training
    need(lambda: check_data(training))
    planned = []
    for sized in seeds.first_of_each(rows, lambda sized: sized.row) if batches else rows:
        if sized.row.label not in chosen:
            continue
        for batch in batches or [None]:
            trial = None
            if sized.size is not None:
                own = training if batch is None else msgspec.structs.replace(training, batch=batch, eval_batches=0)
                limit = Budget(steps=BATCH_STEPS) if batch is not None else budget or suite.budget
                trial = suites.trial(suite, sized, "cpu" if on_cpu else "cuda", limit, own)
            entry = plan.planned(sized, batch)
            planned.append(Planned(sized, entry, trial and msgspec.structs.replace(trial, label=entry.label)))
    unvouched = [row for row in planned if receipt(row, target) in ("none", "stale", "red")]
    if unverified:
        marked = {id(row): replace(row, trial=msgspec.structs.replace(row.trial, unverified=True)) for row in unvouched}
        planned = [marked.get(id(row), row) for row in planned]
    else:
        need(lambda: check_receipts(unvouched, target))
    return Bench(
        replace(suite, budget=budget or suite.budget),
        tuple(planned),
        pool,
        devices,
        target,
        plan.BATCHES if batches else "suite",
        tuple(obstacles),
    )


def sized_or_why(suite: suites.Suite, row: suites.Row) -> suites.Sized:
    """Return a row sized to its suite's budget, or with the reason why it cannot be."""
    alone = replace(suite, rows=(row,))
    try:
        rows = suites.sized(alone)
        suites.check_sizes(alone, rows)
    except UserError as error:
        return suites.Sized(row, problem=str(error).removeprefix(f"{suite.path}: "))
    return rows[0]


def fitted(bench: Bench, findings: list) -> Bench:
    """Return a bench whose trials take their steps as preflight found that they fit."""
    fits = {finding.label: finding.fit for finding in findings}
    rows = [
        replace(row, trial=fits[row.row.label].applied(row.trial)) if row.trial and row.row.label in fits else row
        for row in bench.rows
    ]
    return replace(bench, rows=tuple(rows))


def check_room(pool: choice.Pool, ranks: int) -> None:
    """Refuse a pool that never has as many GPUs as one trial takes."""
    most = pool.most or len(pool.uuids)
    if most < ranks:
        raise UserError(
            f"A trial takes {ranks} GPUs and the run may use {most}. Choose more with --gpus, or --gpus-per-trial {most}."
        )


def check_data(training: Training) -> None:
    """Refuse a data file that is missing, unreadable or too short for the training block."""
    from elmanctl import data

    data.Source.open(data.locate(training.data), training.batch, training.chunk)


def check_receipts(unvouched: list[Planned], target: str) -> None:
    """Refuse rows whose kernel no receipt vouches for on the device."""
    if unvouched:
        each = ", ".join(f"{row.row.model} ({receipt(row, target)})" for row in unvouched)
        names = " ".join(dict.fromkeys(row.row.model for row in unvouched))
        raise UserError(
            f"No receipt for {target} vouches for {each}: a kernel is not timed before it is right. Run elmanctl verify {names} "
            "--device cuda, or give --unverified, which marks these rows for good."
        )


def receipt(row: Planned, target: str) -> str:
    """Return what vouches for a row before it runs: the start of a receipt's hash, else its state; nothing where no kernel runs."""
    if row.trial is None or row.sized.row.spec.kind(row.trial.device) != "kernel":
        return ""
    from elmanctl.verify import receipt as receipts

    spec = row.sized.row.spec
    found = receipts.find(spec, target)
    return found.source_hash[:12] if found else receipts.state(spec, target)


def not_ok(rows: set[str] | None, folder: Path) -> list[str]:
    """Return `label: status` of each of some rows of a run (None: of all) that is not ok; one that cannot be read is unfinished."""
    _, outcomes = plan.outcomes(folder, skipped=[])
    return [
        f"{o.row.label}: {o.result.status if o.result else 'unfinished'}"
        for o in outcomes
        if (rows is None or o.row.label in rows) and (o.result is None or o.result.status != "ok")
    ]
