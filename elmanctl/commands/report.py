"""`elmanctl report`: runs as a table, Markdown, CSV, JSON, one HTML file or plots."""

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
    html = "html"


SUFFIXES = {".md": Format.markdown, ".csv": Format.csv, ".json": Format.json, ".html": Format.html}


def register(app: typer.Typer) -> None:
    """Add the verb `report`."""

    @app.command()
    def report(
        runs: Annotated[
            list[str] | None, typer.Argument(help="Runs by name or folder, one or more; the newest by default.")
        ] = None,
        format: Annotated[
            Format | None, typer.Option("--format", help="Default: table; with --out, by the file's suffix.")
        ] = None,
        out: Annotated[Path | None, typer.Option("--out", help="Write this file (.md, .csv, .json or .html).")] = None,
        html: Annotated[Path | None, typer.Option("--html", help="Write one self-contained HTML file.")] = None,
        png: Annotated[
            Path | None, typer.Option("--png", help="Write plots into this folder; needs matplotlib (extra `plots`).")
        ] = None,
        against: Annotated[
            str | None, typer.Option("--against", help="The row that all are compared with; by default the best.")
        ] = None,
        only: Annotated[
            list[str] | None,
            typer.Option(
                "--only",
                help="Show and compare this row; may be repeated. A slow row left out lets the others be compared further.",
            ),
        ] = None,
        json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
    ) -> None:
        """Show runs: losses with intervals, speed, memory, receipts, what can be told apart, and what is unequal."""
        if json and format not in (None, Format.json):
            raise UserError(f"--json contradicts --format {format.value}. Give one of them.")
        form = Format.json if json else format or form_of(out)
        if out is not None and form is Format.table:
            raise UserError("--format table is for the terminal. Write a file as markdown, csv, json or html.")
        check_suffix("--out", out, form)
        check_suffix("--html", html, Format.html)
        files = {path: kind for path, kind in ((out, form), (html, Format.html)) if path is not None}
        spoken = form if out is None and (format or json or not (html or png)) else None
        show(runs or [None], files, spoken, png, against, tuple(only or ()))


def form_of(path: Path | None) -> Format:
    """Return the form that a file's suffix asks for."""
    if path is None:
        return Format.table
    if path.suffix not in SUFFIXES:
        raise UserError(
            f"--out {path}: the suffix {path.suffix or '(none)'} tells no form. Use .md, .csv, .json or .html, or add --format."
        )
    return SUFFIXES[path.suffix]


def check_suffix(option: str, path: Path | None, form: Format) -> None:
    """Refuse to write a form into a file whose suffix tells another one."""
    told = SUFFIXES.get(path.suffix.lower(), form) if path is not None else form
    if told is not form:
        raise UserError(
            f"{option} {path} would hold {form.value}, and its suffix says {told.value}. Change one of them."
        )


def show(
    names: list[str | None],
    files: dict[Path, Format],
    spoken: Format | None,
    png: Path | None,
    against: str | None,
    only: tuple[str, ...] = (),
) -> None:
    """Report runs: write files and plots, and print the form `spoken`, if any, on stdout. A batch-size run has a table of its own."""
    from elmanctl import plan
    from elmanctl.console import note
    from elmanctl.files import atomic

    folders = list(dict.fromkeys(plan.find(name) for name in names))
    tables = [folder for folder in folders if is_batches(folder)]
    if tables and (len(folders) > 1 or png or Format.html in files.values() or spoken is Format.html):
        raise UserError(f"{tables[0]} is a table of batch sizes: report it alone, as a table, markdown, csv or json.")
    if tables and (against is not None or only):
        option = "--only" if against is None else "--against"
        raise UserError(f"{tables[0]} is a table of batch sizes, whose rows are not compared. Leave {option} out.")
    texts = batch_texts(tables[0]) if tables else Texts(folders, against, only)
    for path, form in files.items():
        text = texts.of(form)
        with atomic(path) as file:
            file.write(text)
        note(f"Wrote {path}.")
    if png is not None:
        from elmanctl.report import plots

        for path in plots.write(texts.report, texts.collected, png):
            note(f"Wrote {path}.")
    if spoken is Format.table:
        texts.show()
    elif spoken is not None:
        sys.stdout.write(texts.of(spoken))


def is_batches(folder: Path) -> bool:
    """Return whether a folder holds a table of batch sizes; one whose record cannot be read is left to what reads the others."""
    from elmanctl import plan

    try:
        return plan.is_batches(folder)
    except UserError:
        return False


class Texts:
    """The forms of a report of some runs, read once."""

    def __init__(self, folders: list[Path], against: str | None, only: tuple[str, ...]):
        from elmanctl.report import collect, rows

        self.collected = collect.choose(collect.collect(folders), only)
        self.report = rows.of(self.collected, against)

    def of(self, form: Format) -> str:
        """Return the report in a form other than the terminal's."""
        if form is Format.html:
            from elmanctl.report import html

            return html.page(self.report, self.collected)
        from elmanctl.report import render

        return render.FORMATS[form.value](self.report)

    def show(self) -> None:
        """Print the terminal's form."""
        from elmanctl.report import render

        render.print_report(self.report)


def batch_texts(folder: Path):
    """Return the forms of a batch-size table, as Texts has them."""
    from elmanctl.report import batches

    class Tables:
        cells = batches.build(folder)

        def of(self, form: Format) -> str:
            return batches.FORMATS[form.value](self.cells)

        def show(self) -> None:
            batches.print_cells(self.cells)

    return Tables()
