"""The text forms of a report: Markdown, CSV, JSON, the columns of a terminal, and the table of batches."""

import csv
import io
import json

import msgspec

from elmanctl import plan
from elmanctl.report import batches, render, rows


def test_markdown_has_one_line_a_row_with_units(run):
    text = render.markdown(
        rows.build(run({"a|b": ({}, {}), "kernelless": ({}, {"execution": "library", "receipt": ""})}))
    )
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in table}) == 1
    assert (
        "| a\\|b | 1M | 128x2 | 1 | 500 | 1.5000 |  |  |  | 4.482 | 1.6000 | 123.5K | 24 GiB | ok | 0123456789ab | kernel |  |"
        in table
    )
    assert "nats per byte" in text and text.startswith("# Suite s\n")


def test_a_kernel_without_a_receipt_says_none(run):
    (row,) = rows.build(run({"a": ({}, {"receipt": ""})})).rows
    assert render.receipt(row) == "none"
    assert render.receipt(msgspec.structs.replace(row, execution="reference")) == ""


def test_a_narrow_terminal_leaves_out_whole_columns_and_never_the_result(run):
    report = rows.build(run({"a": ({}, {}), "b": ({}, {})}))
    table = [render.cells(row) for row in report.rows]
    assert render.fitting(table, 200) == (list(render.COLUMNS), table)
    columns, narrow = render.fitting(table, 80)
    assert len(columns) < len(render.COLUMNS) and all(len(row) == len(columns) for row in narrow)
    assert sum(max(map(len, c)) for c in zip(columns, *narrow, strict=True)) + 2 * (len(columns) - 1) <= 80
    least, _ = render.fitting(table, 1)
    assert least == ["model", "last-100 loss", "held-out loss", "tok/s", "status"]


def test_csv_and_json_carry_full_numbers(run):
    report = rows.build(run({"a": ({}, {"tokens_per_second": 123_456.789}), "x": ({}, None)}))
    (first, second) = csv.DictReader(io.StringIO(render.as_csv(report)))
    assert float(first["tokens_per_second"]) == 123_456.789 and second["last100_loss"] == ""
    data = json.loads(render.as_json(report))
    assert data["rows"][0]["peak_memory_bytes"] == 24 * 2**30 and data["rows"][1]["status"] == "unfinished"


def test_a_batch_table_has_a_column_a_batch_and_says_why_a_cell_is_empty(run):
    folder = run(
        {
            "m@8": ({}, {"tokens_per_second": 1000.0, "peak_memory_bytes": 2**30}),
            "m@64": ({}, {"status": "oom", "tokens_per_second": None, "message": "out of memory"}),
            "k@8": ({}, None),
            "a|b@8": ({}, None),
        },
        kind=plan.BATCHES,
    )
    assert plan.is_batches(folder)
    cells = batches.build(folder)
    assert batches.table(cells) == (
        ["model", "batch 8", "batch 64"],
        [["m", "1K tok/s, 1 GiB", "oom"], ["k", "waiting", ""], ["a|b", "waiting", ""]],
    )
    assert "| m | 1K tok/s, 1 GiB | oom |" in batches.markdown(cells) and "* m: out of memory" in batches.markdown(
        cells
    )
    assert "| a\\|b | waiting |  |" in batches.markdown(cells)
    assert len(json.loads(batches.as_json(cells))) == 4
    assert batches.as_csv(cells).splitlines()[1].startswith("m,8,ok,1000.0,1073741824")
