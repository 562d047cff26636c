"""Records that are corrupt, truncated, foreign or of a later version are named, skipped and counted; the rest is reported."""

import pytest

from elmanctl.errors import UserError
from elmanctl.report import collect, html, render, rows

LINE = b'{"step":201,"loss":1.5,"lr":0.001,"grad_norm":1.0,"seconds":101.0,"tokens":16384}\n'
BACK = LINE.replace(b"101.0", b"1.0")

BAD = {
    "result cut off": ("result.json", b'{"status": "ok"', "result.json is not a Result record"),
    "result empty": ("result.json", b"", "result.json is not a Result record"),
    "result of another kind": ("result.json", b'{"hello": "world"}', "missing required field"),
    "result not text": ("result.json", b"\xff\x00\xfe", "is not a Result record"),
    "result a list": ("result.json", b"[1, 2]", "is not a Result record"),
    "result of a later version": ("result.json", b'{"schema": 9}', "newer elmanctl (schema 9; this one reads 1)"),
    "result a folder": ("result.json", None, "result.json cannot be read: Is a directory"),
    "trial with unknown fields": ("trial.json", b'{"label": "b", "colour": 1}', "trial.json is not a Trial record"),
    "trial of a later version": ("trial.json", b'{"schema": 2, "planet": 1}', "newer elmanctl (schema 2"),
    "steps corrupt in the middle": ("steps.jsonl", b"garbage\n" + LINE, "steps.jsonl line 1 is not a Step record"),
    "steps without end": ("steps.jsonl", b'{"x":' + b"[" * 100_000 + b"\n" + LINE, "line 1 is not a Step"),
    "steps foreign": ("steps.jsonl", b'{"epoch": 1}\n{"epoch": 2}\n', "steps.jsonl line 1 is not a Step record"),
    "steps not counted from 1": ("steps.jsonl", LINE, "steps.jsonl line 1 is step 201"),
    "steps twice": ("steps.jsonl", lambda old: old + old, "line 201 is step 1; lines must be steps 1, 2, 3"),
    "time runs backwards": ("steps.jsonl", lambda old: old + BACK, "line 201: the seconds run backwards"),
    "no tokens": ("steps.jsonl", lambda old: old.replace(b":16384", b":0"), "a step has no tokens"),
    "NaN in JSON": ("steps.jsonl", lambda old: old.replace(b'"loss":', b'"loss":NaN,"x":', 1), "line 1 is not a Step"),
    "steps a folder": ("steps.jsonl", None, "steps.jsonl cannot be read: Is a directory"),
    "witness cut off": ("witness.json", b'{"verdict": "cl', "witness.json is not a Verdict record"),
    "evaluations corrupt": ("heldout.jsonl", b"[]\n{}\n", "heldout.jsonl line 1 is not a Heldout record"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_record_is_named_skipped_and_counted(make_run, name):
    file, content, says = BAD[name]
    folder = make_run({"a": {}, "b": {}})
    path = folder / "b" / file
    if content is None:
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(content(path.read_bytes()) if callable(content) else content)
    report = rows.build(folder)
    assert len(report.skipped) == 1
    assert says in report.skipped[0] and "/b/" in report.skipped[0]
    assert {row.label: row.status for row in report.rows}["a"] == "ok" and len(report.rows) == 2
    assert "Skipped 1 record that cannot be read" in render.markdown(report)
    collected = collect.collect([folder])
    assert (
        "Skipped 1 record" in html.page(rows.of(collected), collected)
        and render.as_csv(report)
        and render.as_json(report)
    )


def test_steps_whose_last_line_was_cut_off_are_read_to_the_line_before(make_run):
    folder = make_run({"a": {}, "b": {}})
    path = folder / "b" / "steps.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    collected = collect.collect([folder])
    notes = rows.of(collected).notes
    assert any(
        n.startswith("b: result.json has 200 steps, last-100 loss 1.") and "steps.jsonl 199 steps" in n for n in notes
    )
    assert collected.skipped == () and len(collected.entries[1].series.steps) == 199


@pytest.mark.parametrize("content", [b"", b"{", b'{"suite": "s"}', b'{"schema": 5}', b"\xff"])
def test_one_bad_run_among_several_is_skipped_and_a_lone_one_is_an_error(make_run, content):
    good, bad = make_run({"a": {}}, "good"), make_run({"b": {}}, "bad")
    (bad / "run.json").write_bytes(content)
    report = rows.build(good, bad)
    assert [row.label for row in report.rows] == ["a"] and "bad/run.json" in report.skipped[0]
    with pytest.raises(UserError, match=r"Nothing to report: .*bad/run\.json"):
        rows.build(bad)


def test_a_row_that_never_started_is_waiting(make_run):
    report = rows.build(make_run({"a": {}, "b": None}))
    assert {row.label: row.status for row in report.rows} == {"a": "ok", "b": "waiting"} and not report.differences


def test_a_result_that_its_steps_contradict_is_told(make_run):
    folder = make_run({"a": {}, "b": {"last100_loss": 1.25}})
    (note,) = [n for n in rows.build(folder).notes if "result.json has" in n]
    assert note.startswith(
        "b: result.json has 200 steps, last-100 loss 1.2500, steps.jsonl 200 steps, last-100 loss 1.5"
    )
    assert not any("result.json has" in n for n in rows.build(make_run({"a": {}}, "sound")).notes)
