"""The report as one HTML file: tables that sort, curves with hover, scatter, memory, sources. Nothing is fetched; the file forbids it itself."""

import json
import math
import re
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from elmanctl.records import VOUCHED
from elmanctl.report import render
from elmanctl.report.collect import Collected, Entry
from elmanctl.report.curves import curve, front
from elmanctl.report.rows import UNVERIFIED, Report, ReportRow
from elmanctl.sizes import short_bytes

FOLDER = Path(__file__).with_name("page")
OPEN = 12  # lists of differences up to this long are open from the start
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#7a5195", "#e4572e", "#5f7d1e", "#7f7f7f")
DASHES = ("", "6 3", "2 2", "8 3 2 3", "1 4")


def page(report: Report, collected: Collected) -> str:
    """Return the whole page."""
    colours = {row.label: COLOURS[i % len(COLOURS)] for i, row in enumerate(report.rows)}
    parts = {
        "title": escape(render.title(report)),
        "css": (FOLDER / "page.css").read_text(),
        "js": (FOLDER / "page.js").read_text(),
        "facts": "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in report.facts.items()),
        "table": _rows(report, colours),
        "skipped": "".join(f'<p class="mark">{escape(text)}</p>' for text in render.skipped(report)),
        "differences": _differences(report),
        "notes": "".join(f"<li>{_prose(text)}</li>" for text in [render.DEFINITIONS, *report.notes]),
        "memory": _memory(report, colours),
        "sources": _sources(collected),
        "data": _script(_data(report, collected, colours)),
    }
    return Template((FOLDER / "page.html").read_text()).substitute(parts)


def _prose(text: str) -> str:
    """Return a sentence as HTML; what stands between backticks is code."""
    return re.sub("`([^`]*)`", r"<code>\1</code>", escape(text))


def _script(data: Any) -> str:
    """Return JSON that may stand inside a script element, whatever text is in it."""
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")


def table(columns: list[str], rows: list[list[str]], right: tuple[str, ...] = ()) -> str:
    """Return a sortable table; cells are HTML, as (cell, value to sort by) or as themselves."""

    def cell(column: str, content) -> str:
        html, value = content if isinstance(content, tuple) else (content, None)
        number = ' class="n"' if column in right else ""
        shown = "Infinity" if value == math.inf else str(value)  # as the page's script reads it
        key = "" if value is None else f' data-value="{escape(shown)}"'
        return f"<td{number}{key}>{html}</td>"

    head = "".join(
        f'<th scope="col"{" class=" + chr(34) + "n" + chr(34) if c in right else ""}><button type="button">{escape(c)}</button></th>'
        for c in columns
    )
    body = "".join(f"<tr>{''.join(cell(c, x) for c, x in zip(columns, row, strict=True))}</tr>" for row in rows)
    return (
        f'<div class="scroll"><table class="sortable"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


# The result first: a phone shows two or three columns at a time.
FIRST = (
    "model",
    "last-100 loss",
    "interval",
    "held-out loss",
    "tok/s",
    "at equal tokens",
    "at equal time",
    "steps",
    "seeds",
)
COLUMNS = (*FIRST, *(column for column in render.COLUMNS if column not in FIRST))
# The number behind a column's text, by which it is sorted.
VALUES = {
    "params": "params",
    "dim x depth": "dim",
    "seeds": "seeds",
    "steps": "steps",
    "last-100 loss": "last100_loss",
    "interval": "low",
    "at equal tokens": "at_equal_tokens",
    "at equal time": "at_equal_time",
    "perplexity": "perplexity",
    "held-out loss": "heldout_loss",
    "tok/s": "tokens_per_second",
    "peak memory": "peak_memory_bytes",
}


def _rows(report: Report, colours: dict[str, str]) -> str:
    def cells(row: ReportRow) -> list:
        found = []
        texts = dict(zip(render.COLUMNS, render.cells(row), strict=True))
        for column in COLUMNS:
            html = escape(text := texts[column])
            if column == "model":
                html = f'<span class="swatch" style="background:{colours[row.label]}"></span>{html}'
            if column == "interval":
                html = f'<span class="whole">{html}</span>' if html else ""
            if column == "differs in" or (column == "status" and row.status != "ok") or html in ("none", UNVERIFIED):
                html = f'<span class="mark">{html}</span>' if html else ""
            value = getattr(row, VALUES[column]) if column in VALUES else text
            found.append((html, "" if value is None else value))
        return found

    listed = table(list(COLUMNS), [cells(row) for row in report.rows], render.RIGHT)
    messages = "".join(f"<li>{escape(row.label)}: {_prose(row.message)}</li>" for row in report.rows if row.message)
    return listed + (f"<ul>{messages}</ul>" if messages else "")


def _differences(report: Report) -> str:
    verdicts = {d.text: d.verdict for d in report.differences}
    parts = []
    for heading, texts in render.differences(report).items():
        items = "".join(f'<li><span class="verdict">{verdicts[t]}</span> {escape(t)}</li>' for t in texts)
        shown = " open" if len(texts) <= OPEN else ""
        parts.append(
            f'<details{shown}><summary><b>{escape(heading)}</b></summary><ul class="verdicts">{items}</ul></details>'
        )
    return "".join(parts) or "<p>There are no two finished rows that can be compared.</p>"


def _memory(report: Report, colours: dict[str, str]) -> str:
    most = max((row.peak_memory_bytes or 0 for row in report.rows), default=0)
    bars = [
        f"<div class=bar><span>{escape(row.label)}</span>"
        f'<i style="width:{100 * row.peak_memory_bytes / most:.1f}%;background:{colours[row.label]}"></i>'
        f"<span>{short_bytes(row.peak_memory_bytes)}</span></div>"
        for row in report.rows
        if row.peak_memory_bytes
    ]
    return "".join(bars) or "<p>No row has recorded its memory.</p>"


def _sources(collected: Collected) -> str:
    columns = [
        "trial",
        "receipt",
        "execution",
        "device",
        "norm",
        "graph",
        "witness",
        "data",
        "batches",
        "versions",
        "warnings",
        "folder",
    ]
    rows = []
    for entry in collected.entries:
        result = entry.outcome.result
        if result is None:
            rows.append([escape(entry.row.label), *[""] * 10, escape(str(entry.outcome.folder))])
            continue
        texts = [
            entry.row.label,
            _vouched(entry),
            result.execution,
            result.device_name,
            result.norm,
            str(result.graph).lower(),
            entry.witness.text() if entry.witness else "",
            result.data_hash[:20],
            result.batch_hash[:12],
            ", ".join(f"{name} {version}" for name, version in result.versions.items()),
            " ".join(result.warnings),
            str(entry.outcome.folder),
        ]
        cells = [escape(text) for text in texts]
        cells[9:11] = [f'<div class="wrap">{cell}</div>' if cell else "" for cell in cells[9:11]]
        rows.append(cells)
    return table(columns, rows)


def _vouched(entry: Entry) -> str:
    trial, result = entry.outcome.trial, entry.outcome.result
    if trial is not None and trial.unverified:
        return UNVERIFIED
    return result.receipt[:12] or ("none" if result.execution in VOUCHED else "")


def _data(report: Report, collected: Collected, colours: dict[str, str]) -> dict[str, Any]:
    order = {row.label: number for number, row in enumerate(report.rows)}
    seen: dict[str, int] = {}
    curves = []
    for entry in collected.entries:
        if entry.series is not None:
            turn = seen[entry.name] = seen.get(entry.name, -1) + 1
            dash = DASHES[(order[entry.name] // len(COLOURS) + turn) % len(DASHES)]
            curves.append(
                {"label": entry.row.label, "row": order[entry.name], "colour": colours[entry.name], "dash": dash}
                | curve(entry)
            )
    fronts = front(report)
    rows = [
        {
            "label": row.label,
            "colour": colours[row.label],
            "loss": row.last100_loss,
            "low": row.low,
            "high": row.high,
            "speed": row.tokens_per_second,
            "front": row.label in fronts,
        }
        for row in report.rows
    ]
    return {"rows": rows, "curves": sorted(curves, key=lambda c: c["row"])}
