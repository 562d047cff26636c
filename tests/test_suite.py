"""Suites: strict reading and sizing."""

import subprocess
import sys

import pytest
from suite_text import GOOD

from elmanctl import dims, suite
from elmanctl.errors import UserError
from elmanctl.records import Budget


def test_values_take_their_declared_type(write_suite):
    loaded = suite.load(write_suite(GOOD))
    assert loaded.training.lr == 3e-4 and loaded.training.betas == (0.9, 0.95)
    assert (loaded.params, loaded.tolerance, loaded.relaxed) == (300_000, 0.2, ("dim",))
    assert (loaded.training.chunk, loaded.training.seed) == (512, 42)
    assert loaded.budget == Budget(tokens=5000)
    assert [(row.label, row.spec.name, row.dim, row.depth) for row in loaded.rows] == [
        ("gru", "gru", None, 2),
        ("second", "lstm:expansion=1", 64, 3),
    ]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("depth: 2", "dept: 2", "unknown key dept. Close: depth"),
        ("batch: 4", "bacth: 4", "unknown key training.bacth. Close: batch"),
        ("tokens: 5000", "token: 5000", "unknown key budget.token. Close: tokens"),
        ("dim: 64", "dims: 64", "unknown key rows[1].dims. Close: dim"),
        ("depth: 2", "depth: deep", "depth is text; it must be a whole number. Correct it in the file"),
        ("batch: 4", "batch: four", "training.batch is text; it must be a whole number"),
        ("batch: 4", "batch: 4.5", "training.batch is a number; it must be a whole number"),
        ("batch: 4", "batch: 0", "training batch=0 is not a positive number"),
        ("dim: 64", "dim: wide", "rows[1].dim is text; it must be a whole number"),
        ("dim: 64", "dim: -64", "rows[1].dim is -64"),
        ("options: {expansion: 1}", "options: [1]", "rows[1].options is a list; it must be a mapping"),
        ("{expansion: 1}", "{expansoin: 1}", "rows[1]: lstm: lstm has no option expansoin"),
        ("label: second", "label: gru", "rows[1]: the name gru is given twice"),
        ("label: second", "label: run.json", "(run.json): elmanctl keeps that name"),
        ("label: second", "label: grö, model: gru}\n  - {label: grü", "rows[2]: grö and grü would have one folder"),
        ("label: second", "label: second, label: third", "line 11: not readable as YAML: key 'label' is given twice"),
        ("model: gru", "model: gruu", "rows[0]: Unknown variant gruu. Close: gru"),
        ("params: 300K", "params: 300Q", "params 300Q: unknown suffix Q"),
        ("tolerance: 20%", "tolerance: 20", "tolerance 20"),
        ("tokens: 5000", "tokens: 5000, steps: 3", "exactly one budget"),
        ("tokens: 5000", "tokens: 0", "tokens=0 is not a positive number"),
        ("params: 300K", "matched: true", "row gru has no dim"),
        ("description: a test", "", "description"),
        ("dim: 64", "dim: 72", "rows[1]: lstm:expansion=1: dim=72 is not a multiple of 16"),
        ("align: 16", "device: tpu", "device is tpu; it must be cuda or cpu"),
        ("depth: 2", "depth: 100000000", "depth is 100,000,000; more than 10,000 layers"),
        ("depth: 3", "depth: 10001", "rows[1].depth is 10,001; more than 10,000 layers"),
        (
            "align: 16",
            "relaxed: [dim, foo]",
            "relaxed foo: there is no rule on that size in gru, lstm. Rules are on: dim",
        ),
        ("align: 16", "? [a, b]\n: 1", "line 5: not readable as YAML: a key is a list"),
        ("align: 16", "? {a: b}\n: 1", "line 5: not readable as YAML: a key is a mapping"),
        ("depth: 2", "depth: !!int two", "not readable as YAML: invalid literal"),
        ("description: a test", "description: 2026-13-45", "not readable as YAML: month must be"),
        ("depth: 2", "depth: !!timestamp x", "not readable as YAML: a tag that its value does not fit"),
        (
            "depth: 2",
            "depth: " + "[" * 500 + "]" * 500,
            "not readable as YAML: a tag that its value does not fit, or brackets",
        ),
        ("rows:", "rows: [", "not readable as YAML"),
    ],
)
def test_a_mistake_names_the_file_and_the_key(write_suite, old, new, says):
    name = write_suite(GOOD.replace(old, new, 1))
    with pytest.raises(UserError) as error:
        suite.load(name)
    assert "suites/mine.yaml" in str(error.value) and says in str(error.value)


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just text", "description: x\nrows: []\nparams: 1M\n"])
def test_a_file_that_is_no_suite_is_refused(write_suite, text):
    with pytest.raises(UserError, match=r"mine\.yaml"):
        suite.load(write_suite(text))


def test_without_a_common_budget_the_rows_are_not_matched(write_suite):
    only_dims = GOOD.replace("params: 300K\n", "").replace("{model: gru}", "{model: gru, dim: 64}")
    with pytest.raises(UserError, match="Give params, or matched: false"):
        suite.load(write_suite(only_dims))
    assert suite.load(write_suite(only_dims + "matched: false\n")).params is None


def test_an_unknown_suite_names_near_ones_and_a_missing_file_itself(write_suite):
    write_suite(GOOD)
    with pytest.raises(UserError, match="Unknown suite mina. Close: mine"):
        suite.load("mina")
    with pytest.raises(UserError, match=r"nowhere\.yaml does not exist"):
        suite.load("nowhere.yaml")


def test_a_suite_of_the_current_folder_comes_before_a_shipped_one(write_suite):
    write_suite(GOOD, "smoke")
    assert suite.load("smoke").description == "a test"
    assert suite.load("quick_test").path.is_file()


def test_rows_are_sized_and_a_row_beyond_the_tolerance_stops_the_suite(write_suite):
    loaded = suite.load(write_suite(GOOD))
    rows = suite.sized(loaded)
    assert rows[0].size.params == dims.count(rows[0].row.spec, rows[0].size.dim, 2)
    assert abs(rows[0].size.error(300_000)) < 0.2
    assert rows[1].size.dim == 64 and rows[1].size.error(300_000) < -0.2
    with pytest.raises(UserError, match=r"second 64x3 has .*further than 20 % from 300K"):
        suite.check_sizes(loaded, rows)
    unmatched = suite.load(write_suite(GOOD + "matched: false\n"))
    suite.check_sizes(unmatched, suite.sized(unmatched))


def test_a_row_whose_package_is_absent_is_a_problem_of_its_own(write_suite, monkeypatch):
    loaded = suite.load(write_suite(GOOD))
    monkeypatch.setattr(
        type(loaded.rows[0].spec.variant), "missing", lambda self: ["cudnn"] if self.name == "lstm" else []
    )
    first, second = suite.sized(loaded)
    assert first.size and not first.problem
    assert second.size is None and "lstm:expansion=1 needs cudnn" in second.problem


def test_resized_drops_the_files_widths(write_suite):
    loaded = suite.resized(suite.load(write_suite(GOOD)), params=1_000_000, depth=4)
    rows = suite.sized(loaded)
    assert all(s.row.dim is None and s.size.depth == 4 for s in rows)
    assert all(abs(s.size.error(1_000_000)) < 0.2 for s in rows)


def test_a_trial_is_fully_resolved(write_suite):
    loaded = suite.load(write_suite(GOOD))
    first = suite.sized(loaded)[0]
    trial = suite.trial(loaded, first, "cpu", loaded.budget, loaded.training)
    assert (trial.model, trial.label, trial.suite, trial.depth, trial.device) == ("gru", "gru", "mine", 2, "cpu")
    assert (trial.dim, trial.params, trial.relaxed) == (first.size.dim, first.size.params, ("dim",))


def test_a_row_may_have_a_step_of_its_own(write_suite):
    """It alone is searched on that step, and it alone waives the rule on the width."""
    loaded = suite.load(
        write_suite(
            "description: d\nparams: 2M\ndepth: 2\ntolerance: 50%\nrows: [{model: E42}, {model: E33, align: 16}]"
        )
    )
    first, second = suite.sized(loaded)
    assert (first.size.dim % 128, first.relaxed, loaded.relaxed) == (0, (), ())
    assert (second.size.dim % 128 > 0, second.relaxed) == (True, ("dim",))
    assert abs(second.size.error(2_000_000)) < 0.03
    given = write_suite("description: d\nmatched: false\nrows: [{model: E42, dim: 160}]", "given")
    with pytest.raises(UserError, match="dim=160 is not a multiple of 128"):
        suite.load(given)
    assert (
        suite.load(write_suite("description: d\nmatched: false\nrows: [{model: E42, dim: 160, align: 32}]")).rows[0].dim
        == 160
    )


def test_reading_suites_and_reports_does_not_import_torch():
    code = "import sys, elmanctl.suite, elmanctl.bench, elmanctl.report.render, elmanctl.queue.live, elmanctl.queue.supervisor, elmanctl.gpus; "
    code += "elmanctl.suite.load('smoke'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_plugins_folder_of_suites_is_searched(write_suite, tmp_path):
    from elmanctl.plugins import hookimpl
    from elmanctl.plugins.registry import registry

    class Plugin:
        @hookimpl
        def elmanctl_suites(self):
            return [tmp_path / "theirs"]

    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "extra.yaml").write_text(GOOD)
    plugin = Plugin()
    registry()._manager.register(plugin)
    try:
        assert suite.load("extra").path == tmp_path / "theirs" / "extra.yaml"
    finally:
        registry()._manager.unregister(plugin)
