"""A run: the rows of one suite in one folder, joined by every call of bench that names it.

* `run.json` says which rows belong to it and how large each is; each row has a folder with its trial.json, steps.jsonl,
  result.json and log.txt. A row that cannot be built here has a result.json that says why, and no trial.json.
"""

import datetime
import itertools
from collections import Counter
from pathlib import Path

import msgspec

from elmanctl.errors import UserError, did_you_mean
from elmanctl.files import read_json, write_json
from elmanctl.names import EVENTS, RUN, slug
from elmanctl.queue.log import Queue
from elmanctl.records import Result, Trial
from elmanctl.suite import Sized, Suite

RUNS = Path("runs")
BATCHES, IMPORTED = "batch_sizes", "imported"


class PlannedRow(msgspec.Struct, frozen=True, kw_only=True):
    """One row: its folder inside the run, and its size; `dim` and `params` are None where the model cannot be built here.

    Rows of one `group` are one row of the suite with several seeds; empty where it has one.
    """

    label: str
    folder: str
    model: str
    depth: int
    dim: int | None = None
    params: int | None = None
    problem: str = ""
    group: str = ""


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """What a run compares. `params` is the common budget (None: none), `kind` is `suite`, `batch_sizes` or `imported`.

    `looks` has the seeds of a row after each call that changed their number: whoever adds seeds has looked at the earlier ones.
    """

    suite: str
    description: str
    created: str
    params: int | None
    tolerance: float
    matched: bool
    relaxed: tuple[str, ...]
    rows: tuple[PlannedRow, ...]
    kind: str = "suite"
    looks: tuple[int, ...] = ()
    schema: int = 1


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """A row with what its folder holds: the trial if it was ever started, the result if it ended."""

    row: PlannedRow
    folder: Path
    trial: Trial | None
    result: Result | None


def planned(sized: Sized, batch: int | None = None) -> PlannedRow:
    """Return the run's entry for a sized row; `batch` distinguishes the rows of a batch-size table."""
    row, size = sized.row, sized.size
    label = row.label if batch is None else f"{row.label}@{batch}"
    return PlannedRow(
        label=label,
        folder=slug(label),
        model=row.spec.name,
        depth=row.depth,
        dim=size.dim if size else row.dim,
        params=size.params if size else None,
        problem=sized.problem,
        group=row.group,
    )


def start(suite: Suite, rows: list[PlannedRow], name: str | None, kind: str = "suite") -> Path:
    """Open a run's folder, new or joined: rows of an earlier call stay, rows of the same name are replaced.

    Args:
        name: folder name below runs/, or None for `<suite>-<time>`.
    Raises:
        UserError: when the folder belongs to another suite or kind.
    """
    now = datetime.datetime.now().astimezone()
    folder = (
        RUNS / name if name else new_folder(f"{suite.name}{'-batches' if kind == BATCHES else ''}-{now:%Y%m%d-%H%M%S}")
    )
    if not (folder / RUN).exists() and folder.exists() and any(path.name != EVENTS for path in folder.iterdir()):
        raise UserError(f"{folder} exists and is no run of a suite. Choose another --run.")
    with Queue(folder).locked():  # two benches may join one run at the same moment
        return _joined(folder, suite, rows, now, kind)


def new_folder(name: str) -> Path:
    """Make and return a folder below runs/ that did not exist: two runs may start in the same second."""
    for number in itertools.count(1):
        folder = RUNS / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise UserError(f"{folder} cannot be made: {error.strerror}. Runs lie below the current folder.") from error
        return folder


def _joined(folder: Path, suite: Suite, rows: list[PlannedRow], now: datetime.datetime, kind: str) -> Path:
    before: tuple[PlannedRow, ...] = ()
    looks: tuple[int, ...] = ()
    created = now.isoformat(timespec="seconds")
    if (folder / RUN).exists():
        old = read_json(folder / RUN, Run)
        if (old.suite, old.kind) != (suite.name, kind):
            raise UserError(f"{folder} holds a run of suite {old.suite} ({old.kind}). Choose another --run.")
        before, created, looks = old.rows, old.created, old.looks
    joined = {row.label: row for row in (*before, *rows)}
    seeds = max(Counter(row.group or row.label for row in joined.values()).values(), default=1)
    order = {row.label: i for i, row in enumerate(suite.rows)}
    run = Run(
        suite=suite.name,
        description=suite.description,
        created=created,
        params=suite.params,
        tolerance=suite.tolerance,
        matched=suite.matched,
        relaxed=suite.relaxed,
        rows=tuple(sorted(joined.values(), key=lambda row: order.get(row.label.partition("@")[0], len(order)))),
        kind=kind,
        looks=looks if looks and looks[-1] == seeds else (*looks, seeds),
    )
    write_json(folder / RUN, run)
    return folder


def outcomes(folder: Path, skipped: list[str] | None = None) -> tuple[Run, list[Outcome]]:
    """Read a run with the state of each row. A single trial's folder is read as a run of one row.

    Args:
        skipped: takes what is wrong with the damaged records of rows, which are then as if absent; None: they are an error.
    Raises:
        UserError: when the folder holds neither, or a record in it is damaged.
    """
    folder = Path(folder)
    if (folder / RUN).exists():
        run = read_json(folder / RUN, Run)
        return run, [_outcome(row, folder / row.folder, skipped) for row in run.rows]
    trial = read_json(folder / "trial.json", Trial)
    row = PlannedRow(
        label=trial.label, folder=".", model=trial.model, depth=trial.depth, dim=trial.dim, params=trial.params
    )
    created = datetime.datetime.fromtimestamp((folder / "trial.json").stat().st_mtime).astimezone()
    run = Run(
        suite=trial.suite,
        description="",
        created=created.isoformat(timespec="seconds"),
        params=None,
        tolerance=1.0,
        matched=trial.matched,
        relaxed=trial.relaxed,
        rows=(row,),
    )
    return run, [_outcome(row, folder, skipped)]


def _outcome(row: PlannedRow, folder: Path, skipped: list[str] | None) -> Outcome:
    def record(name: str, kind: type):
        try:
            return read_json(folder / name, kind) if (folder / name).exists() else None
        except UserError as error:
            if skipped is None:
                raise
            skipped.append(str(error))
            return None

    return Outcome(row=row, folder=folder, trial=record("trial.json", Trial), result=record("result.json", Result))


def is_batches(folder: Path) -> bool:
    """Return whether a run's folder holds a batch-size table."""
    return (folder / RUN).exists() and read_json(folder / RUN, Run).kind == BATCHES


def find(name: str | None) -> Path:
    """Return a run's folder by name below runs/ or by path; the newest run where no name is given.

    Raises:
        UserError: when there is none.
    """
    folders = [path for path in RUNS.glob("*") if _marker(path)]
    if name is None:
        if not folders:
            raise UserError(f"There is no run in {RUNS}/ yet. `elmanctl bench SUITE` makes one.")
        return max(folders, key=lambda path: _marker(path).stat().st_mtime)
    for path in (RUNS / name, Path(name)):
        if _marker(path):
            return path
    known = [path.name for path in folders]
    raise UserError(
        f"There is no run {name}: no {RUN} or trial.json in {RUNS / name} or {name}.{did_you_mean(name, known)}"
    )


def _marker(folder: Path) -> Path | None:
    """Return the file that makes a folder a run, or None."""
    return next((path for path in (folder / RUN, folder / "trial.json", folder / EVENTS) if path.is_file()), None)
