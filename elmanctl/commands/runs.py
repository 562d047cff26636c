"""`elmanctl runs`: what has been trained, what waits and runs, and what the user does to it."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from elmanctl.console import note, print_json, print_table
from elmanctl.errors import UserError
from elmanctl.runlog import CHECKPOINTS, parse_checkpoint_name

Folder = Annotated[Path, typer.Argument(help="Where to look, at any depth.")]
Name = Annotated[str | None, typer.Argument(help="A run, below runs/ or by path. Default: the newest.")]
Rows = Annotated[list[str] | None, typer.Argument(help="Rows of it. Default: all.")]
Why = Annotated[str, typer.Option("--why", help="A reason, for the record.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")]


def register(app: typer.Typer) -> None:
    """Add the verb `runs`."""
    runs = typer.Typer(no_args_is_help=True, help="List, watch and steer runs; rescue results from checkpoint names.")
    app.add_typer(runs, name="runs")

    @runs.command("ls")
    def ls(folder: Folder = Path("runs"), json: Json = False) -> None:
        """List trials with status, steps and losses (nats per byte), also those that wait and run."""
        from elmanctl.queue import catalog

        rows, notes = catalog.trials(existing(folder))
        list_trials(rows, notes, folder, json)

    @runs.command()
    def reindex(folder: Folder = Path("runs"), json: Json = False) -> None:
        """Make the index of a folder of runs anew from the records, and list them."""
        from elmanctl.queue import catalog

        rows, notes = catalog.trials(existing(folder), rebuild=True)
        list_trials(rows, notes, folder, json)

    @runs.command()
    def show(
        run: Name = None,
        row: Annotated[str | None, typer.Argument(help="A row of it: its whole history.")] = None,
        json: Json = False,
    ) -> None:
        """Show the jobs of a run, or everything about one of them."""
        from elmanctl.queue import control
        from elmanctl.queue import show as shown

        queue = control.queue_of(run)
        found = shown.run(queue) if row is None else shown.row(queue, row)
        if json:
            print_json(found)
        elif row is None:
            columns = ["row", "state", "attempt", "device", "since", "why"]
            print_table(columns, [[job[c] for c in columns] for job in found], right=("attempt",))
        else:
            print_row(found)
        if text := queue.complaint():
            note(text)

    @runs.command()
    def logs(
        run: Name = None,
        row: Annotated[str | None, typer.Argument(help="A row of it; may be left out where it has one.")] = None,
        follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the row has ended.")] = False,
        lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many lines to begin with.")] = 20,
    ) -> None:
        """Print what a trial wrote besides its records."""
        from elmanctl.queue import control
        from elmanctl.queue import show as shown

        queue = control.queue_of(run)
        if row is None and len(queue.jobs) != 1:
            raise UserError(f"{queue.run} has {len(queue.jobs)} rows; name one: {', '.join(list(queue.jobs)[:20])}.")
        (job,) = control.chosen(queue, [row or next(iter(queue.jobs))])
        for line in shown.tail(queue.run / job.spec.folder / "log.txt", lines):
            print(line)
        if follow:
            shown.follow(queue, job.label)

    @runs.command()
    def cancel(run: Name = None, rows: Rows = None, why: Why = "", json: Json = False) -> None:
        """Cancel jobs, stopped ones too; what runs is ended in good order and keeps its records."""
        from elmanctl.queue import control

        queue = control.queue_of(run)
        tell(control.cancel(queue, control.chosen(queue, rows or []), why), json)

    @runs.command()
    def hold(run: Name = None, rows: Rows = None, why: Why = "", json: Json = False) -> None:
        """Keep jobs that wait from being started, until `release`."""
        from elmanctl.queue import control

        queue = control.queue_of(run)
        tell(control.hold(queue, control.chosen(queue, rows or []), why), json)

    @runs.command()
    def release(run: Name = None, rows: Rows = None, json: Json = False) -> None:
        """Let held jobs wait for their turn again."""
        from elmanctl.queue import control

        queue = control.queue_of(run)
        tell(control.release(queue, control.chosen(queue, rows or [])), json)

    @runs.command()
    def gc(
        folder: Folder = Path("runs"),
        delete: Annotated[bool, typer.Option("--delete", help="Delete it; without, it is only listed.")] = False,
        json: Json = False,
    ) -> None:
        """List, or delete, what runs keep in previous/ of rows that were run anew, and source snapshots that nothing waits for."""
        from elmanctl.queue import control
        from elmanctl.sizes import short_bytes

        found = control.garbage(existing(folder))
        for path, _ in found if delete else ():
            control.remove(path)
        if json:
            print_json([{"path": str(path), "bytes": size, "deleted": delete} for path, size in found])
        elif found:
            print_table(["path", "size"], [[path, short_bytes(size)] for path, size in found], right=("size",))
        note(f"{short_bytes(sum(size for _, size in found))} {'deleted' if delete else 'can go; --delete deletes it'}.")

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


def list_trials(rows: list[dict[str, Any]], notes: list[str], folder: Path, json: bool) -> None:
    """Print a list of trials, and what could not be read."""
    if json:
        print_json(rows)
    elif not rows:
        note(f"No run below {folder}.")
    else:
        from elmanctl.queue.catalog import FIELDS

        table = [[shorten(row[column]) for column in FIELDS] for row in rows]
        print_table(list(FIELDS), table, right=("dim", "depth", "steps", "last100_loss", "heldout_loss"))
    for text in notes:
        note(text)


def tell(done: dict[str, str], json: bool) -> None:
    """Print what became of each job."""
    if json:
        print_json(done)
    else:
        for label, what in done.items():
            print(f"{label}: {what}")


def print_row(found: dict[str, Any]) -> None:
    """Print everything about one row."""
    from elmanctl.queue.show import stamp

    trial, result, witness = found["trial"], found["result"], found["witness"]
    lines = [
        ["row", f"{found['row']}: {trial.model} {trial.dim}x{trial.depth}"],
        ["state", f"{found['state']} {found['status']}".strip()],
        ["message", result and result.message],
        ["loss", result and result.last100_loss and f"{result.last100_loss:.4f} nats/byte over the last 100 steps"],
        [
            "witness",
            witness and ": ".join(filter(None, [witness.verdict, "; ".join((*witness.evidence, *witness.notes))])),
        ],
        ["unreadable", "; ".join(found["problems"])],
        ["sources", found["snapshot"]],
        ["last line", found["last_line"]],
        ["folder", found["folder"]],
    ]
    print_table(["", ""], [line for line in lines if line[1]])
    columns = ["time", "step", "attempt", "device", "status", "why"]
    print_table(columns, [[stamp(s["time"]), *(s[c] for c in columns[1:])] for s in found["steps"]], right=("attempt",))


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
