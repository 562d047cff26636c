"""Rows of a report, from records made here: ranking, what is unequal, the facts of the run, and which run is reported."""

import math
import time

import pytest

from elmanctl import plan
from elmanctl.errors import UserError
from elmanctl.records import Budget, Training
from elmanctl.report import render, rows


def labels(report):
    return [row.label for row in report.rows]


def test_rows_are_ranked_by_last100_loss_and_those_without_come_last(run):
    folder = run(
        {
            "worst": ({}, {"last100_loss": 1.7}),
            "nan": ({}, {"status": "diverged", "steps": 41, "last100_loss": 1.1, "heldout_loss": 1.0}),
            "best": ({}, {"last100_loss": 1.2}),
            "short": ({}, {"last100_loss": None}),
            "unfinished": ({}, None),
        }
    )
    report = rows.build(folder)
    assert labels(report) == ["best", "worst", "nan", "short", "unfinished"]
    assert report.ranked_by == "last100_loss" and not report.ok
    assert report.rows[0].perplexity == pytest.approx(math.exp(1.2))


def test_a_diverged_row_shows_its_step_and_no_loss(run):
    lost = {"status": "diverged", "steps": 41, "last100_loss": 1.1, "heldout_loss": 1.0, "message": "layer 3: NaN"}
    report = rows.build(run({"nan": ({}, lost)}))
    (row,) = report.rows
    assert row.status == "diverged at step 42"
    assert (row.last100_loss, row.perplexity, row.heldout_loss) == (None, None, None)
    text = render.markdown(report)
    assert "1.1" not in text.split("| --- |")[1].split("\n\n")[0] and "nan: layer 3: NaN" in text


def test_past_one_epoch_rows_are_ranked_by_heldout_loss_and_the_report_says_so(run):
    folder = run(
        {
            "memory": ({}, {"last100_loss": 0.5, "heldout_loss": 2.0, "epochs": 3.0}),
            "model": ({}, {"last100_loss": 1.0, "heldout_loss": 1.5}),
        }
    )
    report = rows.build(folder)
    assert labels(report) == ["model", "memory"] and report.ranked_by == "heldout_loss"
    assert any(note.startswith("Ranked by held-out loss") for note in report.notes)


@pytest.mark.parametrize(
    ("trial", "result", "field", "sentence"),
    [
        ({"training": Training(batch=16)}, {}, "batch", "Unequal batch: odd 16; the others 32."),
        ({"training": Training(chunk=256)}, {}, "chunk", "Unequal chunk: odd 256; the others 512."),
        ({"training": Training(seed=7)}, {}, "seed", "Unequal seed: odd 7; the others 42."),
        ({"training": Training(lr=1e-3)}, {}, "lr", "Unequal lr: odd 0.001; the others 0.0003."),
        (
            {"training": Training(checkpoint_layers=4)},
            {},
            "checkpoint layers",
            "Unequal checkpoint layers: odd 4; the others 0.",
        ),
        ({"training": Training(loss_chunks=8)}, {}, "loss chunks", "Unequal loss chunks: odd 8; the others 1."),
        ({"micro_batches": 2}, {}, "micro-batches", "Unequal micro-batches: odd 2; the others 1."),
        ({"budget": Budget(steps=99)}, {}, "budget", "Unequal budget: odd 99 steps; the others 10 minutes."),
        ({}, {"device_name": "CPU"}, "device", "Unequal device: odd CPU; the others NVIDIA H200."),
        ({}, {"execution": "library"}, "execution", "Unequal execution: odd library; the others kernel."),
        ({}, {"data_hash": "blake2b:xyz"}, "data hash", "Unequal data hash: odd blake2b:xyz; the others blake2b:abc."),
        ({}, {"graph": False}, "graph", "Unequal graph: odd false; the others true."),
        ({"params": 1_200_000}, {}, "params +20%", None),
    ],
)
def test_a_row_is_marked_with_the_field_in_which_it_differs(run, trial, result, field, sentence):
    report = rows.build(run({"a": ({}, {}), "odd": (trial, result), "b": ({}, {})}))
    marked = {row.label: row.differs for row in report.rows}
    assert marked == {"a": (), "b": (), "odd": (field,)}
    assert sentence is None or sentence in report.notes


def test_equal_rows_carry_no_mark_and_no_note(run):
    report = rows.build(run({"a": ({}, {}), "b": ({"params": 1_059_000}, {"last100_loss": 1.4})}))
    assert report.ok and report.notes == () and all(row.differs == () for row in report.rows)


def test_the_header_has_the_facts_of_the_run(run):
    folder = run(
        {"a": ({}, {}), "b": ({}, {"versions": {"torch": "2.13.0", "fla": "0.4"}})}, matched=False, relaxed=("dim",)
    )
    report = rows.build(folder)
    assert report.facts["device"] == "NVIDIA H200" and report.facts["budget"] == "10 minutes"
    assert report.facts["data"] == "data/pile.txt blake2b:abc"
    assert report.facts["parameters"] == "1M, not matched"
    assert report.facts["versions"] == "torch 2.13.0, python 3.11, fla 0.4"
    assert "batch 32 x 512 bytes" in report.facts["training"] and "seed 42" in report.facts["training"]
    assert any("matched: false" in note for note in report.notes)
    assert any("waives the method's rule on dim" in note for note in report.notes)


def test_rows_with_a_width_of_their_own_are_named(run):
    report = rows.build(run({"a": ({}, {}), "b": ({"relaxed": ("dim",)}, {})}))
    (note,) = [note for note in report.notes if "the width is waived" in note]
    assert "waived for b, which" in note


def test_a_single_trials_folder_is_a_report_of_one_row(run):
    folder = run({"a": ({}, {})})
    report = rows.build(folder / "a")
    assert labels(report) == ["a"] and report.rows[0].status == "ok"


def test_the_newest_run_is_the_default_and_a_wrong_name_gets_near_ones(run):
    first = run({"a": ({}, {})}, "first")
    time.sleep(0.02)
    second = run({"a": ({}, {})}, "second")
    assert plan.find(None).name == second.name
    assert plan.find("first").resolve() == first and plan.find(str(first)) == first
    with pytest.raises(UserError, match=r"no run secnd.*Close: second"):
        plan.find("secnd")


def test_no_run_at_all_says_how_to_make_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="elmanctl bench SUITE"):
        plan.find(None)
