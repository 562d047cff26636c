"""What is printed where: results on stdout, progress and notes on stderr, never a prompt."""

import json
import sys
from functools import cache
from typing import Any

WIDE = 200
LONG = 200  # rows; rich takes half a second for a thousand


@cache
def out():
    """Return the rich console for results. Piped output is not wrapped to 80 columns; `[...]` and `:name:` are plain text."""
    from rich.console import Console

    class Results(Console):
        def on_broken_pipe(self) -> None:
            raise  # the command line has one way to end when its reader has gone

    return Results(width=None if sys.stdout.isatty() else WIDE, highlight=False, markup=False, emoji=False)


@cache
def err():
    """Return the rich console for progress, notes and errors."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, markup=False, emoji=False)


def note(text: str) -> None:
    """Print one line of progress or advice on stderr, without markup."""
    err().print(text, markup=False, soft_wrap=True)


def print_json(data: Any) -> None:
    """Print structs or plain data as one JSON document on stdout."""
    import msgspec

    sys.stdout.write(json.dumps(msgspec.to_builtins(data), indent=1) + "\n")


def print_table(
    columns: list[str], rows: list[list[Any]], title: str | None = None, right: tuple[str, ...] = ()
) -> None:
    """Print a table on stdout; cells are shown as text, None as an empty cell.

    Args:
        columns: headings.
        rows: one list a row, as long as `columns`; a cell may be a rich renderable.
        right: headings whose column is aligned right.
    """
    if len(rows) > LONG and all(isinstance(cell, str | int | None) for row in rows for cell in row):
        _print_long(columns, rows, title, right)
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=None if title is None else Text(title),
        title_justify="left",
        box=None,
        header_style="bold",
        pad_edge=False,
    )
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        table.add_row(
            *(
                ""
                if cell is None
                else cell
                if hasattr(cell, "__rich__") or hasattr(cell, "__rich_console__")
                else Text(str(cell))
                for cell in row
            )
        )
    out().print(table)


def _print_long(columns: list[str], rows: list[list[Any]], title: str | None, right: tuple[str, ...]) -> None:
    """Print a table of many rows of plain text, in the same form."""
    cells = [columns, *(["" if cell is None else str(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    if title is not None:
        print(title)
    aligned = [(str.rjust if name in right else str.ljust, width) for name, width in zip(columns, widths, strict=True)]
    for row in cells:
        print("  ".join(align(cell, width) for (align, width), cell in zip(aligned, row, strict=True)).rstrip())
