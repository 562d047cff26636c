"""Several seeds of a suite's rows."""

import pytest
from suite_text import GOOD

from elmanctl import bench, dims, plan, seeds, suite
from elmanctl.errors import UserError


def test_seeds_make_a_row_each_of_which_the_first_keeps_the_name(write_suite):
    loaded = suite.load(write_suite(GOOD + "seeds: 3\n"))
    assert [(r.label, r.seed, r.group) for r in loaded.rows[:3]] == [
        ("gru", 42, "gru"),
        ("second", 42, "second"),  # a run cut short has whole comparisons
        ("gru seed 43", 43, "gru"),
    ]
    trials = [suite.trial(loaded, s, "cpu", loaded.budget, loaded.training) for s in suite.sized(loaded)]
    assert [t.training.seed for t in trials] == [42, 42, 43, 43, 44, 44] and len({t.params for t in trials[::2]}) == 1
    assert [r.label for r in suite.load(write_suite(GOOD + "seeds: [7, 1]\n")).rows][::2] == ["gru", "gru seed 1"]
    assert suite.load(write_suite(GOOD + "seeds: 1\n")).rows == suite.load(write_suite(GOOD)).rows


@pytest.mark.parametrize(
    ("seeds", "says"),
    [
        ("0", "seeds is 0; it must be at least 1"),
        ("[]", "seeds is []; give a number"),
        ("[1, 1]", "a list of different ones"),
        ("[1, -2]", "mine.yaml: seeds: training seed=-2"),
        ("100000000", "100,000,000 seeds of each row are more than the 1,000"),
        (str(list(range(1001))), "1,001 seeds of each row are more than the 1,000"),
        ("many", "seeds"),
    ],
)
def test_seeds_that_cannot_be(write_suite, seeds, says):
    with pytest.raises(UserError) as error:
        suite.load(write_suite(GOOD + f"seeds: {seeds}\n"))
    assert says in str(error.value)


def test_the_seeds_of_a_row_are_sized_once(write_suite, monkeypatch):
    searched, real = [], dims.search
    monkeypatch.setattr(dims, "search", lambda spec, *rest: searched.append(spec.name) or real(spec, *rest))
    loaded = suite.load(write_suite(GOOD), repeats=1000)
    rows = suite.sized(loaded)
    assert searched == ["gru"] and [s.row for s in rows] == list(loaded.rows)
    assert {s.size.dim for s in rows if s.row.group == "gru"} == {rows[0].size.dim}


def test_a_size_that_misses_the_budget_is_a_problem_of_every_seed(write_suite):
    asked = bench.Asked(dry_run=True, repeats=3, params=300_000)
    found = bench.prepare(write_suite(GOOD.replace("20%", "0.001%") + "device: cpu\n"), asked)
    assert len(found.rows) == 6 and all("further than 0.001 %" in row.row.problem for row in found.rows)


def test_a_seed_may_not_take_the_name_of_another_row(write_suite):
    text = GOOD.replace("label: second", "label: gru seed 43") + "seeds: 2\n"
    with pytest.raises(UserError, match="gru seed 43 is that of a seed of another row"):
        suite.load(write_suite(text))


def test_rows_are_chosen_by_label_model_or_all_seeds_by_the_plain_name(write_suite):
    loaded = suite.load(write_suite(GOOD + "seeds: 2\n"))
    assert seeds.choose(loaded, ["GRU"]) == {"gru", "gru seed 43"}
    assert seeds.choose(loaded, ["gru seed 43", "second"]) == {"gru seed 43", "second", "second seed 43"}
    assert len(seeds.choose(loaded, [])) == 4
    with pytest.raises(UserError, match=r"mine has no such row. Close: gru"):
        seeds.choose(loaded, ["grau"])


def test_a_run_remembers_that_seeds_were_added(write_suite, tmp_path):
    for number, looks in ((1, (1,)), (1, (1,)), (3, (1, 3))):
        loaded = suite.load(write_suite(GOOD + f"seeds: {number}\n"))
        folder = plan.start(loaded, [plan.planned(s) for s in suite.sized(loaded)], "r")
        assert plan.outcomes(folder)[0].looks == looks
    _, outcomes = plan.outcomes(folder)
    assert [o.row.group for o in outcomes].count("gru") == 3
