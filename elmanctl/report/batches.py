"""The batch-size table of a run: throughput and peak memory of each model against batch."""

import csv
import io
import json
from pathlib import Path

import msgspec

from elmanctl import plan
from elmanctl.markdown import table as markdown_table
from elmanctl.sizes import short_bytes, short_count


class BatchCell(msgspec.Struct, frozen=True, kw_only=True):
    """One model at one batch: target tokens per second, peak memory in bytes, status."""

    label: str
    batch: int
    status: str
    tokens_per_second: float | None = None
    peak_memory_bytes: int | None = None
    message: str = ""


def build(folder: Path) -> list[BatchCell]:
    """Read the cells of a batch-size run, in the order of its rows."""
    _, outcomes = plan.outcomes(folder)
    found = []
    for outcome in outcomes:
        label, _, batch = outcome.row.label.rpartition("@")
        result = outcome.result
        found.append(
            BatchCell(
                label=label,
                batch=int(batch),
                status=result.status if result else "waiting",
                tokens_per_second=result.tokens_per_second if result else None,
                peak_memory_bytes=result.peak_memory_bytes if result else None,
                message=result.message if result else outcome.row.problem,
            )
        )
    return found


def table(cells: list[BatchCell]) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows: one row a model, one column a batch, `tok/s, peak memory` or the status in each cell."""
    batches = sorted({cell.batch for cell in cells})
    by_place = {(cell.label, cell.batch): cell for cell in cells}
    rows = [
        [label, *(_text(by_place.get((label, batch))) for batch in batches)]
        for label in dict.fromkeys(c.label for c in cells)
    ]
    return ["model", *(f"batch {batch}" for batch in batches)], rows


def _text(cell: BatchCell | None) -> str:
    if cell is None:
        return ""
    if cell.tokens_per_second is None:
        return cell.status
    return f"{short_count(round(cell.tokens_per_second))} tok/s, {short_bytes(cell.peak_memory_bytes)}"


def print_cells(cells: list[BatchCell]) -> None:
    """Print the table on stdout, and under it the message of each cell that has one."""
    from elmanctl.console import out, print_table

    columns, rows = table(cells)
    print_table(columns, rows, right=tuple(columns[1:]))
    for text in messages(cells):
        out().print(text, markup=False)


def messages(cells: list[BatchCell]) -> list[str]:
    """Return why cells have no number, each reason once."""
    return list(dict.fromkeys(f"{cell.label}: {cell.message}" for cell in cells if cell.message))


def markdown(cells: list[BatchCell]) -> str:
    """Return the table as Markdown."""
    columns, rows = table(cells)
    lines = markdown_table(columns, rows, columns[1:])
    return "\n".join([*lines, "", *(f"* {message}" for message in messages(cells))]).rstrip() + "\n"


def as_csv(cells: list[BatchCell]) -> str:
    """Return the cells as CSV, one a line."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(BatchCell.__struct_fields__)
    writer.writerows(["" if v is None else v for v in msgspec.structs.astuple(cell)] for cell in cells)
    return buffer.getvalue()


def as_json(cells: list[BatchCell]) -> str:
    """Return the cells as a JSON document."""
    return json.dumps(msgspec.to_builtins(cells), indent=1) + "\n"


FORMATS = {"markdown": markdown, "csv": as_csv, "json": as_json}
