"""The record of a timing run: terminal, Markdown, JSON."""

import msgspec

from elmanctl.console import note, print_table
from elmanctl.kernelbench import compare
from elmanctl.kernelbench.run import OWN, Row
from elmanctl.markdown import table as markdown_table

COLUMNS = (
    "model",
    "recurrence",
    "B",
    "T",
    "dim",
    "forward",
    "us/step",
    "fwd+bwd",
    "us/step ",
    "times slower",
    "GB/s",
    "TFLOP/s",
    "",
)
RIGHT = COLUMNS[2:-1]


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What `bench --kernels` measured: rows, ceilings of the same run, where it ran, and the variant of --against."""

    device_name: str
    started: str
    base: str
    ceilings: dict[str, float]
    versions: dict[str, str]
    rows: list[Row]
    against: str = ""
    schema: int = 1


def cells(record: Record) -> list[list[str]]:
    """Return the table's cells: times of a whole pass in us as median (10-90 % quantile), shares of the run's own ceilings."""
    own = {(r.model, r.B, r.T, r.dim): r for r in record.rows if r.contender == OWN and r.both}
    return [_row(r, own.get((r.model, r.B, r.T, r.dim)), record.ceilings) for r in record.rows]


def _row(r: Row, own: Row | None, ceilings: dict[str, float]) -> list[str]:
    line = [r.model, r.contender, str(r.B), str(r.T), str(r.dim)]
    if r.step is None:
        return [*line, *[""] * 7, r.note]
    slower = f"{r.both[0] / own.both[0]:.2f}" if own and own is not r else ""
    line += [_spread(r.forward), f"{r.step[0]:.3f}", _spread(r.both), f"{r.step[1]:.3f}", slower]
    line.append("" if r.gb_s is None else f"{r.gb_s:.0f} ({r.gb_s / ceilings['copy_gb_s']:.0%})")
    line.append("" if r.tflop_s is None else f"{r.tflop_s:.1f} ({r.tflop_s / ceilings['bf16_tflop_s']:.0%})")
    return [*line, f"receipt {r.receipt}" if r.receipt else r.note]


def _spread(times: tuple[float, float, float]) -> str:
    return f"{times[0]:.0f} ({times[1]:.0f}-{times[2]:.0f})"


def notes(record: Record) -> list[str]:
    """Return what a reader must know to use the table."""
    c = record.ceilings
    yardstick = [compare.note(record.against)] if record.against else []
    return [
        f"{record.device_name}, {record.started}; "
        + ", ".join(f"{name} {version}" for name, version in record.versions.items()),
        "Times in microseconds of one pass in bf16, median (10 and 90 per cent quantile), CUDA-graph replay, contenders in turn on rotated "
        "inputs; fwd+bwd includes every gradient.",
        f"Shares are of this run's own ceilings: device copy {c['copy_gb_s']:.0f} GB/s, bf16 product {c['bf16_tflop_s']:.0f} TFLOP/s. GB/s "
        "counts each declared tensor once a pass; cuDNN's times include its input projection; cublas_loop is the product alone.",
        *yardstick,
    ]


def progress(r: Row) -> str:
    """Return one line about a row that was just measured."""
    where = f"{r.model} {r.contender} B={r.B} T={r.T} dim={r.dim}"
    return (
        f"{where}: {r.note}"
        if r.step is None
        else f"{where}: {r.step[0]:.3f} us a step forward, {r.step[1]:.3f} with backward"
    )


def print_record(record: Record) -> None:
    """Print the table and its notes."""
    print_table(list(COLUMNS), cells(record), right=RIGHT)
    if record.against:
        print_table(list(compare.COLUMNS), beside(record), right=compare.COLUMNS[1:])
    for text in notes(record):
        note(text)


def beside(record: Record) -> list[list[str]]:
    """Return the cells of the table beside the variant of --against."""
    return compare.cells(record.rows, record.against, record.ceilings["copy_gb_s"])


def markdown(record: Record) -> str:
    """Return the record as a Markdown page."""
    lines = ["# Recurrences alone", "", *(f"* {text}" for text in notes(record)), ""]
    if record.against:
        lines += [*markdown_table(compare.COLUMNS, beside(record), compare.COLUMNS[1:]), ""]
    return "\n".join([*lines, *markdown_table(COLUMNS, cells(record), RIGHT), ""])
