"""`elmanctl runs`: what has been trained, from the records or, where they are lost, from checkpoint names."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from elmanctl.console import note, print_json, print_table
from elmanctl.errors import UserError
from elmanctl.files import read_json
from elmanctl.records import Result, Trial, last100_loss, read_steps
from elmanctl.runlog import CHECKPOINTS, RESULT, STEPS, TRIAL, parse_checkpoint_name

Folder = Annotated[Path, typer.Argument(help="Where to look, at any depth.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")]


def register(app: typer.Typer) -> None:
    """Add the verb `runs`."""
    runs = typer.Typer(no_args_is_help=True, help="List runs; rescue results from checkpoint names.")
    app.add_typer(runs, name="runs")

    @runs.command("ls")
    def ls(folder: Folder = Path("runs"), json: Json = False) -> None:
        """List runs with status, steps and losses (nats per byte)."""
        rows = [describe(path.parent, folder) for path in sorted(existing(folder).rglob(TRIAL))]
        if json:
            print_json(rows)
        elif not rows:
            note(f"No run below {folder}.")
        else:
            columns = ["run", "model", "dim", "depth", "status", "steps", "last100_loss", "heldout_loss", "message"]
            table = [[shorten(row[column]) for column in columns] for row in rows]
            print_table(columns, table, right=("dim", "depth", "steps", "last100_loss", "heldout_loss"))

    @runs.command()
    def rescue(folder: Folder = Path("runs"), json: Json = False) -> None:
        """Read a table out of checkpoint folder names alone: nothing inside of them is opened."""
        rows = rescued(existing(folder))
        if json:
            print_json(rows)
        elif not rows:
            note(f"No checkpoint name below {folder}.")
        else:
            columns = ["run", "checkpoints", "step", "loss"]
            table = [[shorten(row[column]) for column in columns] for row in rows]
            print_table(
                columns, table, title="newest checkpoint of each run, loss in nats per byte", right=tuple(columns[1:])
            )


def existing(folder: Path) -> Path:
    """Return the folder, or raise UserError where there is none."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder. Runs are written below runs/ of the folder they are started in.")
    return folder


def shorten(value: Any) -> str | None:
    """Return a cell: losses with four decimals, the first line of a message."""
    if isinstance(value, float):
        return f"{value:.4f}"
    return str(value).split("\n")[0][:80] if value is not None else None


def describe(run: Path, below: Path) -> dict[str, Any]:
    """Return one run as plain data; one without a result is `unfinished`: running, or killed."""
    row: dict[str, Any] = dict.fromkeys(("model", "dim", "depth", "steps", "last100_loss", "heldout_loss"))
    row |= {"run": str(run.relative_to(below)), "status": "unreadable", "message": ""}
    try:
        trial = read_json(run / TRIAL, Trial)
        row |= {"model": trial.model, "dim": trial.dim, "depth": trial.depth}
        if (run / RESULT).exists():
            result = read_json(run / RESULT, Result)
            return row | {
                key: getattr(result, key) for key in ("status", "steps", "last100_loss", "heldout_loss", "message")
            }
        steps = read_steps(run / STEPS) if (run / STEPS).exists() else []
        return row | {"status": "unfinished", "steps": len(steps), "last100_loss": last100_loss(steps)}
    except UserError as error:
        return row | {"message": str(error)}


def rescued(folder: Path) -> list[dict[str, Any]]:
    """Return the newest step and its loss for each run whose checkpoints are named below a folder."""
    found: dict[str, list[tuple[int, float]]] = {}
    for place, below, _ in os.walk(folder):
        named = [key for name in below if (key := parse_checkpoint_name(name))]
        if named:
            run = Path(place).parent if Path(place).name == CHECKPOINTS else Path(place)
            found.setdefault(os.path.relpath(run, folder), []).extend(named)
    rows = []
    for run, checkpoints in sorted(found.items()):
        step, loss = max(checkpoints)
        rows.append({"run": run, "checkpoints": len(checkpoints), "step": step, "loss": loss})
    return rows
