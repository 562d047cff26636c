"""Suites: strict reading, sizing, and seeds."""

import subprocess
import sys

import pytest

from elmanctl import dims, plan, seeds, suite
from elmanctl.errors import UserError
from elmanctl.records import Budget

GOOD = """
description: a test
params: 300K
depth: 2
align: 16
tolerance: 20%
training: {batch: 4, lr: 3e-4, betas: [0.9, 9.5e-1]}
budget: {tokens: 5000}
rows:
  - {model: gru}
  - {label: second, model: lstm, options: {expansion: 1}, dim: 64, depth: 3}
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "suites").mkdir()

    def write(text, name="mine"):
        (tmp_path / "suites" / f"{name}.yaml").write_text(text)
        return name

    return write


def test_values_take_their_declared_type(write):
    loaded = suite.load(write(GOOD))
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
        ("align: 16", "device: tpu", "`device`"),
        ("rows:", "rows: [", "not readable as YAML"),
    ],
)
def test_a_mistake_names_the_file_and_the_key(write, old, new, says):
    name = write(GOOD.replace(old, new, 1))
    with pytest.raises(UserError) as error:
        suite.load(name)
    assert "suites/mine.yaml" in str(error.value) and says in str(error.value)


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just text", "description: x\nrows: []\nparams: 1M\n"])
def test_a_file_that_is_no_suite_is_refused(write, text):
    with pytest.raises(UserError, match=r"mine\.yaml"):
        suite.load(write(text))


def test_without_a_common_budget_the_rows_are_not_matched(write):
    only_dims = GOOD.replace("params: 300K\n", "").replace("{model: gru}", "{model: gru, dim: 64}")
    with pytest.raises(UserError, match="Give params, or matched: false"):
        suite.load(write(only_dims))
    assert suite.load(write(only_dims + "matched: false\n")).params is None


def test_an_unknown_suite_names_near_ones_and_a_missing_file_itself(write):
    write(GOOD)
    with pytest.raises(UserError, match="Unknown suite mina. Close: mine"):
        suite.load("mina")
    with pytest.raises(UserError, match=r"nowhere\.yaml does not exist"):
        suite.load("nowhere.yaml")


def test_a_suite_of_the_current_folder_comes_before_a_shipped_one(write):
    write(GOOD, "smoke")
    assert suite.load("smoke").description == "a test"
    assert suite.load("quick_test").path.is_file()


def test_rows_are_sized_and_a_row_beyond_the_tolerance_stops_the_suite(write):
    loaded = suite.load(write(GOOD))
    rows = suite.sized(loaded)
    assert rows[0].size.params == dims.count(rows[0].row.spec, rows[0].size.dim, 2)
    assert abs(rows[0].size.error(300_000)) < 0.2
    assert rows[1].size.dim == 64 and rows[1].size.error(300_000) < -0.2
    with pytest.raises(UserError, match=r"second 64x3 has .*further than 20 % from 300K"):
        suite.check_sizes(loaded, rows)
    unmatched = suite.load(write(GOOD + "matched: false\n"))
    suite.check_sizes(unmatched, suite.sized(unmatched))


def test_a_row_whose_package_is_absent_is_a_problem_of_its_own(write, monkeypatch):
    loaded = suite.load(write(GOOD))
    monkeypatch.setattr(
        type(loaded.rows[0].spec.variant), "missing", lambda self: ["cudnn"] if self.name == "lstm" else []
    )
    first, second = suite.sized(loaded)
    assert first.size and not first.problem
    assert second.size is None and "lstm:expansion=1 needs cudnn" in second.problem


def test_resized_drops_the_files_widths(write):
    loaded = suite.resized(suite.load(write(GOOD)), params=1_000_000, depth=4)
    rows = suite.sized(loaded)
    assert all(s.row.dim is None and s.size.depth == 4 for s in rows)
    assert all(abs(s.size.error(1_000_000)) < 0.2 for s in rows)


def test_a_trial_is_fully_resolved(write):
    loaded = suite.load(write(GOOD))
    first = suite.sized(loaded)[0]
    trial = suite.trial(loaded, first, "cpu", loaded.budget, loaded.training)
    assert (trial.model, trial.label, trial.suite, trial.depth, trial.device) == ("gru", "gru", "mine", 2, "cpu")
    assert (trial.dim, trial.params, trial.relaxed) == (first.size.dim, first.size.params, ("dim",))


def test_a_row_may_have_a_step_of_its_own(write):
    """It alone is searched on that step, and it alone waives the rule on the width."""
    loaded = suite.load(
        write("description: d\nparams: 2M\ndepth: 2\ntolerance: 50%\nrows: [{model: E42}, {model: E33, align: 16}]")
    )
    first, second = suite.sized(loaded)
    assert (first.size.dim % 128, first.relaxed, loaded.relaxed) == (0, (), ())
    assert (second.size.dim % 128 > 0, second.relaxed) == (True, ("dim",))
    assert abs(second.size.error(2_000_000)) < 0.03
    given = write("description: d\nmatched: false\nrows: [{model: E42, dim: 160}]", "given")
    with pytest.raises(UserError, match="dim=160 is not a multiple of 128"):
        suite.load(given)
    assert (
        suite.load(write("description: d\nmatched: false\nrows: [{model: E42, dim: 160, align: 32}]")).rows[0].dim
        == 160
    )


def test_reading_suites_and_reports_does_not_import_torch():
    code = "import sys, elmanctl.suite, elmanctl.bench, elmanctl.report.render, elmanctl.queue.live, elmanctl.queue.supervisor, elmanctl.gpus; "
    code += "elmanctl.suite.load('smoke'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_plugins_folder_of_suites_is_searched(write, tmp_path):
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


def test_seeds_make_a_row_each_of_which_the_first_keeps_the_name(write):
    loaded = suite.load(write(GOOD + "seeds: 3\n"))
    assert [(r.label, r.seed, r.group) for r in loaded.rows[:3]] == [
        ("gru", 42, "gru"),
        ("second", 42, "second"),  # a run cut short has whole comparisons
        ("gru seed 43", 43, "gru"),
    ]
    trials = [suite.trial(loaded, s, "cpu", loaded.budget, loaded.training) for s in suite.sized(loaded)]
    assert [t.training.seed for t in trials] == [42, 42, 43, 43, 44, 44] and len({t.params for t in trials[::2]}) == 1
    assert [r.label for r in suite.load(write(GOOD + "seeds: [7, 1]\n")).rows][::2] == ["gru", "gru seed 1"]
    assert suite.load(write(GOOD + "seeds: 1\n")).rows == suite.load(write(GOOD)).rows


@pytest.mark.parametrize(
    ("seeds", "says"),
    [
        ("0", "seeds is 0; it must be at least 1"),
        ("[]", "seeds is []; give a number"),
        ("[1, 1]", "a list of different ones"),
        ("[-1]", "training seed=-1"),
        ("many", "seeds"),
    ],
)
def test_seeds_that_cannot_be(write, seeds, says):
    with pytest.raises(UserError) as error:
        suite.load(write(GOOD + f"seeds: {seeds}\n"))
    assert says in str(error.value)


def test_a_seed_may_not_take_the_name_of_another_row(write):
    text = GOOD.replace("label: second", "label: gru seed 43") + "seeds: 2\n"
    with pytest.raises(UserError, match="gru seed 43 is that of a seed of another row"):
        suite.load(write(text))


def test_rows_are_chosen_by_label_model_or_all_seeds_by_the_plain_name(write):
    loaded = suite.load(write(GOOD + "seeds: 2\n"))
    assert seeds.choose(loaded, ["GRU"]) == {"gru", "gru seed 43"}
    assert seeds.choose(loaded, ["gru seed 43", "second"]) == {"gru seed 43", "second", "second seed 43"}
    assert len(seeds.choose(loaded, [])) == 4
    with pytest.raises(UserError, match=r"mine has no such row. Close: gru"):
        seeds.choose(loaded, ["grau"])


def test_a_run_remembers_that_seeds_were_added(write, tmp_path):
    for number, looks in ((1, (1,)), (1, (1,)), (3, (1, 3))):
        loaded = suite.load(write(GOOD + f"seeds: {number}\n"))
        folder = plan.start(loaded, [plan.planned(s) for s in suite.sized(loaded)], "r")
        assert plan.outcomes(folder)[0].looks == looks
    _, outcomes = plan.outcomes(folder)
    assert [o.row.group for o in outcomes].count("gru") == 3
