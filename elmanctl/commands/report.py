"""`elmanctl report`: a run as a table, Markdown, CSV or JSON."""

import enum
import sys
from pathlib import Path
from typing import Annotated

import typer

from elmanctl.errors import UserError


class Format(enum.StrEnum):
    """The text forms of a report."""

    table = "table"
    markdown = "markdown"
    csv = "csv"
    json = "json"


def register(app: typer.Typer) -> None:
    """Add the verb `report`."""

    @app.command()
    def report(
        run: Annotated[str | None, typer.Argument(help="A run's name or folder; the newest run by default.")] = None,
        format: Annotated[
            Format | None, typer.Option("--format", help="Default: table; with --out, by the file's suffix.")
        ] = None,
        out: Annotated[Path | None, typer.Option("--out", help="Write to this file (.md, .csv or .json).")] = None,
        json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
    ) -> None:
        """Show a run: losses, speed, memory, receipts, and what is unequal among its rows."""
        if json and format not in (None, Format.json):
            raise UserError(f"--json contradicts --format {format.value}. Give one of them.")
        form = Format.json if json else format or form_of(out)
        if out is not None and form is Format.table:
            raise UserError("--format table is for the terminal. Write a file as markdown, csv or json.")
        show(run, form, out)


def form_of(path: Path | None) -> Format:
    """Return the form that a file's suffix asks for."""
    if path is None:
        return Format.table
    forms = {".md": Format.markdown, ".csv": Format.csv, ".json": Format.json}
    if path.suffix not in forms:
        raise UserError(
            f"--out {path}: the suffix {path.suffix or '(none)'} tells no form. Use .md, .csv or .json, or add --format."
        )
    return forms[path.suffix]


def show(run: str | None, form: Format, path: Path | None) -> None:
    """Print a run's report, or write it to a file. A batch-size run has a table of its own."""
    from elmanctl import plan
    from elmanctl.console import note
    from elmanctl.files import atomic
    from elmanctl.report import batches, render, rows

    folder = plan.find(run)
    if plan.is_batches(folder):
        cells = batches.build(folder)
        text = None if form is Format.table else batches.FORMATS[form.value](cells)
        if text is None:
            batches.print_cells(cells)
            return
    else:
        report = rows.build(folder)
        if form is Format.table:
            render.print_report(report)
            return
        text = render.FORMATS[form.value](report)
    if path is None:
        sys.stdout.write(text)
        return
    with atomic(path) as file:
        file.write(text)
    note(f"Wrote {path}.")
