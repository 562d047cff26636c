"""The text forms of a report: terminal, Markdown, CSV and JSON."""

import csv
import io
import json
import math
from typing import Any

import msgspec

from elmanctl.markdown import table as markdown_table
from elmanctl.records import VOUCHED
from elmanctl.report.differences import QUESTIONS
from elmanctl.report.rows import Report, ReportRow
from elmanctl.sizes import short_bytes, short_count

COLUMNS = (
    "model",
    "params",
    "dim x depth",
    "seeds",
    "steps",
    "last-100 loss",
    "interval",
    "at equal tokens",
    "at equal time",
    "perplexity",
    "held-out loss",
    "tok/s",
    "peak memory",
    "status",
    "receipt",
    "execution",
    "differs in",
)
RIGHT = COLUMNS[1 : COLUMNS.index("status")]
# What a narrow terminal does without, first to last.
SPARE = (
    *("perplexity", "execution", "receipt", "at equal tokens", "at equal time", "peak memory", "dim x depth", "params"),
    *("steps", "interval", "seeds", "differs in"),
)
LONG = 1e9  # from here on a number is shown by its exponent
GAP = 2  # blanks between two columns of a printed table
DEFINITIONS = (
    "Loss: nats per byte. Last-100: mean training loss over the last 100 optimizer steps. Perplexity: exp(last-100), per byte. "
    "tok/s: target bytes per second of training after the first 20 steps. Interval: 95 %, over seeds where there are several (their mean is "
    "shown), else over blocks of the 100 steps of this one run."
)


def cells(row: ReportRow) -> list[str]:
    """Return a row's cells as text, in the order of COLUMNS."""

    def number(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form if isinstance(value, int) or abs(value) < LONG else ".4g")

    return [
        row.label if row.label == row.model else f"{row.label} ({row.model})",
        short_count(row.params),
        f"{row.dim or '?'}x{row.depth}",
        str(row.seeds),
        number(row.steps, ",d"),
        number(row.last100_loss, ".4f"),
        "" if row.low is None else f"{number(row.low, '.4f')} to {number(row.high, '.4f')}",
        number(row.at_equal_tokens, ".4f"),
        number(row.at_equal_time, ".4f"),
        number(row.perplexity, ".3f"),
        number(row.heldout_loss, ".4f"),
        "" if row.tokens_per_second is None else short_count(round(row.tokens_per_second)),
        short_bytes(row.peak_memory_bytes),
        row.status,
        receipt(row),
        row.execution,
        ", ".join(row.differs),
    ]


def receipt(row: ReportRow) -> str:
    """Return the start of a receipt's hash; `none` where a kernel ran without one, nothing where there is no kernel to vouch for."""
    return row.receipt[:12] or ("none" if row.execution in VOUCHED else "")


def remarks(report: Report) -> list[str]:
    """Return the sentences under the table: definitions, notes, and the message of each row that has one."""
    messages = [f"{row.label}: {row.message}" for row in report.rows if row.message]
    return [DEFINITIONS, *report.notes, *messages, *skipped(report)]


def skipped(report: Report) -> list[str]:
    """Return what could not be read, counted and named."""
    count = len(report.skipped)
    return (
        [f"Skipped {count} record{'s' * (count > 1)} that cannot be read: {' '.join(report.skipped)}"] if count else []
    )


def differences(report: Report) -> dict[str, list[str]]:
    """Return what can be told apart, in words: a heading with its sentences for each way of comparing."""
    found: dict[str, list[str]] = {}
    for difference in report.differences:
        heading = f"Against {difference.against}, {QUESTIONS[difference.question]}"
        found.setdefault(heading, []).append(difference.text)
    return found


def title(report: Report) -> str:
    """Return the heading: the suite or suites, or the folder of a single trial."""
    return f"Suite {report.suite}" if report.suite else f"Trial {report.folder}"


def print_report(report: Report) -> None:
    """Print a report on stdout as a table with its facts above and its notes below."""
    from elmanctl.console import out, print_table

    console = out()
    console.print(title(report), style="bold")
    for name, text in report.facts.items():
        console.print(f"  {name}: {text}", markup=False)
    console.print()
    columns, table = fitting([cells(row) for row in report.rows], console.width)
    print_table(columns, table, right=RIGHT)
    console.print()
    missing = [column for column in COLUMNS if column not in columns]
    narrow = (
        [f"Not shown for lack of width: {', '.join(missing)}. Every form but the table has them."] if missing else []
    )
    for text in [*narrow, *remarks(report)]:
        console.print(text, markup=False)
    for heading, texts in differences(report).items():
        console.print(f"\n{heading}", style="bold")
        for text in texts:
            console.print(f"  {text}", markup=False)


def fitting(rows: list[list[str]], width: int) -> tuple[list[str], list[list[str]]]:
    """Return the headings and rows that fit a width in characters, leaving out columns of SPARE as far as needed."""
    widths = [max(map(len, column)) + GAP for column in zip(COLUMNS, *rows, strict=True)]
    shown = dict(zip(COLUMNS, widths, strict=True))
    for column in SPARE:
        if sum(shown.values()) - GAP > width:
            del shown[column]
    kept = [i for i, column in enumerate(COLUMNS) if column in shown]
    return [COLUMNS[i] for i in kept], [[row[i] for i in kept] for row in rows]


def markdown(report: Report) -> str:
    """Return a report as Markdown."""
    parts = [f"# {title(report)}", ""]
    parts += [f"* {name}: {text}" for name, text in report.facts.items()]
    parts += ["", *markdown_table(COLUMNS, [cells(row) for row in report.rows], RIGHT)]
    parts += ["", *(f"* {text}" for text in remarks(report))]
    for heading, texts in differences(report).items():
        parts += ["", f"## {heading}", "", *(f"* {text}" for text in texts)]
    return "\n".join(parts) + "\n"


def as_csv(report: Report) -> str:
    """Return the rows as CSV with full numbers, one column a field of ReportRow."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(ReportRow.__struct_fields__)
    for row in report.rows:
        values = msgspec.structs.asdict(row)
        writer.writerow(["; ".join(v) if isinstance(v, tuple) else "" if v is None else v for v in values.values()])
    return buffer.getvalue()


def as_json(report: Report) -> str:
    """Return the report as a JSON document; an infinite number, which JSON has not, is the text "Infinity"."""
    return json.dumps(_finite(msgspec.to_builtins(report)), indent=1, allow_nan=False) + "\n"


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return json.dumps(data) if isinstance(data, float) and not math.isfinite(data) else data


FORMATS = {"markdown": markdown, "csv": as_csv, "json": as_json}
