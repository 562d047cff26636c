"""`elmanctl report` on a run that bench's fake trials would leave."""

import json
import sys

import msgspec
import pytest

from elmanctl import plan
from elmanctl.files import write_json
from elmanctl.records import Budget, Result, Training, Trial


@pytest.fixture
def run(project):
    trial = Trial(label="a", model="gru", dim=64, depth=2, params=1000, budget=Budget(steps=200), training=Training())
    result = Result(
        status="ok",
        steps=200,
        tokens=1,
        seconds=1.0,
        last100_loss=1.5,
        data_hash="h",
        device_name="CPU",
        execution="library",
    )
    rows = []
    for label, loss in (("a", 1.5), ("b", 1.25)):
        write_json(project.path / f"runs/r/{label}/trial.json", msgspec.structs.replace(trial, label=label))
        write_json(project.path / f"runs/r/{label}/result.json", msgspec.structs.replace(result, last100_loss=loss))
        rows.append(plan.PlannedRow(label=label, folder=label, model="gru", depth=2, dim=64, params=1000))
    facts = {"suite": "s", "description": "d", "created": "now", "params": None, "tolerance": 0.06, "matched": False}
    write_json(project.path / "runs/r/run.json", plan.Run(**facts, relaxed=(), rows=tuple(rows)))
    return project


def test_the_newest_run_as_a_table(run):
    ran = run.run("report")
    lines = [line for line in ran.out.splitlines() if line.startswith(("a ", "b "))]
    assert ran.code == 0 and lines[0].startswith("b (gru)") and "1.2500" in lines[0] and "3.490" in lines[0]
    assert "matched: false" in ran.out


def test_the_form_follows_the_files_suffix(run):
    assert run.run("report", "r", "--out", "docs/r.md").code == 0
    assert (run.path / "docs/r.md").read_text().startswith("# Suite s")
    run.run("report", "r", "--out", "r.csv")
    assert (run.path / "r.csv").read_text().splitlines()[1].startswith("b,gru,1000,64,2,200,1.25,")
    run.run("report", "r", "--out", "r.txt", "--format", "json")
    assert json.loads((run.path / "r.txt").read_text())["ranked_by"] == "last100_loss"


def test_forms_on_stdout(run):
    assert run.run("report", "--format", "markdown").out.startswith("# Suite s")
    assert run.run("report", "--format", "csv").out.startswith("label,model,")
    assert run.run("report", "--json").out == run.run("report", "--format", "json").out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere"], "There is no run nowhere"),
        (["--json", "--format", "csv"], "contradicts"),
        (["--out", "r.txt"], "the suffix .txt tells no form"),
        (["--out", "r.md", "--format", "table"], "Write a file as markdown, csv, json or html"),
        (["--out", "runs"], "tells no form"),
        (["--json", "--out", "r.csv"], "--out r.csv would hold json, and its suffix says csv"),
        (["--format", "csv", "--out", "r.HTML"], "--out r.HTML would hold csv, and its suffix says html"),
        (["--html", "r.md"], "--html r.md would hold html, and its suffix says markdown"),
        (["--format", "pdf"], "pdf"),
    ],
)
def test_bad_input(run, arguments, says):
    ran = run.run("report", *arguments)
    assert ran.code == 2 and says in ran.err and not list(run.path.glob("r.*"))


def test_no_run_yet(project):
    ran = project.run("report")
    assert ran.code == 2 and "elmanctl bench SUITE" in ran.err


def test_several_forms_at_once(run):
    ran = run.run("report", "r", "--html", "o.html", "--out", "o.md")
    assert ran.code == 0 and ran.out == "" and "Wrote o.html" in ran.err and "Wrote o.md" in ran.err
    assert (run.path / "o.html").read_text().startswith("<!doctype html>")
    assert run.run("report", "--format", "html").out == (run.path / "o.html").read_text()
    assert "a (gru)" in run.run("report", "r", "r", "--against", "a").out


def test_a_row_to_compare_with_must_exist(run):
    ran = run.run("report", "--against", "c")
    assert ran.code == 2 and "--against c: there is no such row" in ran.err


def test_rows_can_be_left_out_and_the_report_says_which(run):
    ran = run.run("report", "--only", "A", "--format", "markdown")
    assert ran.code == 0 and "| a (gru) |" in ran.out and "| b (gru) |" not in ran.out
    assert "Left out here, by --only: b." in ran.out and "Left out" not in run.run("report").out
    assert "| b (gru) |" in run.run("report", "--only", "gru", "--format", "markdown").out
    ran = run.run("report", "--only", "a", "--only", "c")
    assert ran.code == 2 and "--only c: no run here has such a row" in ran.err and "Rows: a, b." in ran.err
    assert "no such row" in run.run("report", "--only", "a", "--against", "b").err


def test_plots_need_matplotlib_and_say_so(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    ran = run.run("report", "--png", "plots")
    assert ran.code == 2 and "--png needs matplotlib" in ran.err and "elmanctl[plots]" in ran.err


def test_plots_are_written(run):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra `plots`)")
    ran = run.run("report", "--png", "plots")
    written = sorted(path.name for path in (run.path / "plots").iterdir())
    assert ran.code == 0
    assert written == ["loss_seconds.png", "loss_steps.png", "loss_tokens.png", "throughput_loss.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in (run.path / "plots").iterdir())


def test_a_table_of_batch_sizes_is_reported_alone(run):
    path = run.path / "runs/r/run.json"
    path.write_text(path.read_text().replace('"kind": "suite"', '"kind": "batch_sizes"').replace('"a"', '"a@8"'))
    ran = run.run("report", "r", "--html", "o.html")
    assert ran.code == 2 and "is a table of batch sizes: report it alone" in ran.err
    ran = run.run("report", "r", "--against", "a")
    assert ran.code == 2 and "whose rows are not compared. Leave --against out" in ran.err
    ran = run.run("report", "r", "--only", "a")
    assert ran.code == 2 and "whose rows are not compared. Leave --only out" in ran.err


def test_a_bad_run_beside_a_good_one_is_skipped_and_alone_is_an_error(run):
    (run.path / "runs/bad").mkdir()
    (run.path / "runs/bad/run.json").write_text("{")
    ran = run.run("report", "r", "bad")
    assert ran.code == 0 and "Skipped 1 record that cannot be read: runs/bad/run.json" in ran.out.replace("\n", " ")
    ran = run.run("report", "bad")
    assert ran.code == 2 and "runs/bad/run.json is not a Run record" in ran.err and "Traceback" not in ran.err
