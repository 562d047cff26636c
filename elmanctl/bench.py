"""Bench: from a suite to trials on devices. Everything that can be refused is refused before the first trial starts."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from elmanctl import gpus, plan, seeds, takeover, tiles, toolchain
from elmanctl import suite as suites
from elmanctl.console import note
from elmanctl.errors import UserError
from elmanctl.gpus import choice, free
from elmanctl.records import Budget, Training, Trial, check_shares
from elmanctl.toolchain import HOST
from elmanctl.variant import Spec
from elmanctl.verify import receipt as receipts

# Of a dry run on a machine without GPUs.
ASSUMED_CAPABILITY = (9, 0)
# Enough for a throughput after the first 20 steps.
BATCH_STEPS = 60
UNVERIFIED = "or give --unverified, which marks these rows for good"


@dataclass(frozen=True)
class Planned:
    """One row about to run: its sized model, its entry in the run, and its trial (None where it cannot be built here)."""

    sized: suites.Sized
    row: plan.PlannedRow
    trial: Trial | None

    def runs(self, target: str) -> tuple[Spec, str]:
        """Return what the trial runs on a target, and why where that is not the row's model as it is (takeover.py)."""
        spec = self.sized.row.spec
        return takeover.of_trial(spec, self.trial, tiles.DEVICES.get(target)) if self.trial else (spec, "")

    def execution(self, target: str) -> str:
        """Return what runs, as the trial's record will say: `kernel`, `cublas`, `reference`, `library`; nothing without a trial."""
        return takeover.execution(self.runs(target)[0], self.trial.device) if self.trial else ""


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


@dataclass(frozen=True)
class Asked:
    """What a run is asked for beside its suite.

    Args:
        gpu_text: what --gpus says, None if it was not given.
        budget: in place of the suite's.
        only: labels or model names of the rows to run; empty for all.
        batches: batch sizes for a throughput table; empty for a normal run.
        dry_run: report missing devices, data and receipts as obstacles instead of refusing.
        wait: let trials wait for GPUs that are in use now.
        unverified: run kernels without a receipt too; their trials say so for good.
        repeats: seeds of each row, in place of the suite's; a table against batch takes the first.
        params: size every row anew to so many parameters; a row that no legal width brings there has that as its problem.
        ranks: GPUs that train one row together, in place of the suite's.
        slurm: let Slurm choose the devices. Receipts are then asked for the GPUs of this machine, or for sm_90a.
    """

    gpu_text: str | None = None
    budget: Budget | None = None
    only: tuple[str, ...] = ()
    batches: tuple[int, ...] = ()
    dry_run: bool = False
    wait: bool = False
    unverified: bool = False
    repeats: int | None = None
    params: int | None = None
    ranks: int | None = None
    slurm: bool = False


def prepare(name: str, asked: Asked) -> Bench:
    """Load, size and check a suite, and choose its devices.

    Raises:
        UserError: for anything that would make the run fail or be unfair.
    """
    suite = suites.load(name, asked.repeats)
    if asked.ranks is not None:
        suite = replace(suite, ranks=asked.ranks)
    for batch in asked.batches or [suite.training.batch]:
        check_shares(batch, suite.ranks)
    chosen = seeds.choose(suite, list(asked.only))
    if asked.params is None:
        rows = suites.sized(suite)
        suites.check_sizes(suite, rows)
    else:
        suite = suites.resized(suite, asked.params)
        rows = seeds.once_a_group(suite.rows, lambda row: sized_or_why(suite, row))
    obstacles: list[str] = []

    def need(check):
        """Return what a check returns; in a dry run its refusal becomes an obstacle."""
        try:
            return check()
        except UserError as error:
            if not asked.dry_run:
                raise
            obstacles.append(str(error))
            return None

    on_cpu = suite.device == "cpu" and asked.gpu_text is None
    if on_cpu and asked.wait:
        raise UserError(f"--wait: {suite.name} runs on the CPU, where nothing waits for a GPU. Leave it out.")
    pool, devices, target = (None, ("CPU",), HOST) if on_cpu else choose_devices(suite, asked, need)
    need(lambda: check_data(suite.training))
    if asked.batches:
        rows = seeds.first_of_each(rows, lambda sized: sized.row)
    rows = [sized for sized in rows if sized.row.label in chosen]
    planned = [planned_row(suite, sized, asked, on_cpu, batch) for sized in rows for batch in asked.batches or [None]]
    for text in dict.fromkeys(row.runs(target)[1] for row in planned):
        if text:
            note(text)
    if asked.unverified:
        planned = [marked(row, target) for row in planned]
    else:
        need(lambda: receipts.require([row.runs(target)[0] for row in planned if runs_kernel(row)], target, UNVERIFIED))
    return Bench(
        replace(suite, budget=asked.budget or suite.budget),
        tuple(planned),
        pool,
        devices,
        target,
        plan.BATCHES if asked.batches else "suite",
        tuple(obstacles),
    )


def choose_devices(suite: suites.Suite, asked: Asked, need) -> tuple[choice.Pool | None, tuple[str, ...], str]:
    """Return the GPUs that trials may use (None: Slurm's, or none found), their names for people, and the build target."""
    if asked.slurm:
        box = gpus.gpus()
        return None, ("Slurm",), box[0].target if box else toolchain.device_target(*ASSUMED_CAPABILITY)
    sampler = free.Sampler().settle()
    box = sampler.box
    pool = need(lambda: choice.select(asked.gpu_text, box, sampler.reasons, asked.wait))
    if pool is None and asked.gpu_text is not None:  # a dry run shows what was asked for
        box = box or choice.assumed(asked.gpu_text, ASSUMED_CAPABILITY)
        pool = choice.parse(asked.gpu_text, box)
    if pool is not None:
        need(lambda: check_room(pool, suite.ranks))
    order = {uuid: number for number, uuid in enumerate(pool.uuids if pool else ())}
    chosen = sorted((gpu for gpu in box if gpu.uuid in order), key=lambda gpu: order[gpu.uuid])
    devices = tuple(f"GPU {gpu.index}" for gpu in chosen)[: pool.most if pool else None]
    return pool, devices, box[0].target if box else toolchain.device_target(*ASSUMED_CAPABILITY)


def planned_row(suite: suites.Suite, sized: suites.Sized, asked: Asked, on_cpu: bool, batch: int | None) -> Planned:
    """Return one row with its trial; `batch` in place of the suite's for a throughput table."""
    trial, training = None, suite.training
    if sized.size is not None:
        own = training if batch is None else msgspec.structs.replace(training, batch=batch, eval_batches=0)
        limit = Budget(steps=BATCH_STEPS) if batch is not None else asked.budget or suite.budget
        trial = suites.trial(suite, sized, "cpu" if on_cpu else "cuda", limit, own)
    entry = plan.planned(sized, batch)
    return Planned(sized, entry, trial and msgspec.structs.replace(trial, label=entry.label))


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


def runs_kernel(row: Planned) -> bool:
    """Return whether a row's trial runs a kernel of ours, for which a receipt must vouch."""
    return row.trial is not None and row.sized.row.spec.kind(row.trial.device) == "kernel"


def marked(row: Planned, target: str) -> Planned:
    """Return a row whose record says for good that no receipt vouched for its kernel, where none does."""
    if not runs_kernel(row) or receipts.find(row.runs(target)[0], target):
        return row
    return replace(row, trial=msgspec.structs.replace(row.trial, unverified=True))


def receipt(row: Planned, target: str) -> str:
    """Return what vouches for a row before it runs: the start of a receipt's hash, else its state; nothing where no kernel runs."""
    if not runs_kernel(row):
        return ""
    spec, _ = row.runs(target)
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
