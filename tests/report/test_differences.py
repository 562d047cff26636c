"""What a report claims of two rows, and what it does not."""

import msgspec
import pytest

from elmanctl.errors import UserError
from elmanctl.files import read_json, write_json
from elmanctl.records import Budget, Result
from elmanctl.report import curves, render, rows


def claims(report, question="tokens"):
    return {d.row: d for d in report.differences if d.question == question}


def test_a_planted_difference_of_0_005_is_found_at_equal_steps_and_missed_at_equal_time(make_run):
    report = rows.build(make_run({"better": {"offset": -0.005, "steps": 400}, "worse": {"steps": 400}}))
    paired, unpaired = claims(report)["worse"], claims(report, "time")["worse"]
    assert paired.verdict == "higher" and paired.paired and paired.low < 0.005 < paired.high and paired.basis == "steps"
    assert unpaired.verdict == "cannot tell apart" and not unpaired.paired
    assert "cannot tell apart" in unpaired.text and "more seeds would be needed" in unpaired.text
    assert report.rows[0].label == "better" and report.rows[0].low < report.rows[0].last100_loss < report.rows[0].high
    assert any("how far another seed would move it is not known" in note for note in report.notes)


def test_the_same_fixed_held_out_batches_are_compared_one_by_one(make_run):
    report = rows.build(make_run({"a": {"offset": -0.005}, "b": {}}))
    held = claims(report, "held-out")["b"]
    assert held.verdict == "higher" and (held.basis, held.count) == ("batches", 16)
    assert held.value == pytest.approx(0.005)


def test_equal_tokens_and_equal_time_are_those_that_every_row_reached(make_run):
    folder = make_run({"slow": {"steps": 150, "step_seconds": 1.0}, "fast": {"steps": 400, "step_seconds": 0.25}})
    report = rows.build(folder)
    slow = next(row for row in report.rows if row.label == "slow")
    fast = next(row for row in report.rows if row.label == "fast")
    assert slow.at_equal_tokens == slow.last100_loss and fast.at_equal_tokens != fast.last100_loss
    assert fast.at_equal_time == fast.last100_loss < slow.last100_loss < slow.at_equal_time
    assert any(
        "2.458M tokens (150 steps)" in note and "100.0 s of training (100 to 400" in note for note in report.notes
    )


def test_seeds_are_one_row_with_their_mean_and_are_compared_seed_by_seed(make_run):
    report = rows.build(make_run({"a": {"offset": -0.01}, "b": {}}, seeds=(42, 43, 44), looks=(3,)))
    assert [(row.label, row.seeds) for row in report.rows] == [("a", 3), ("b", 3)]
    means = [r.last100_loss for r in report.rows]
    difference = claims(report)["b"]
    assert (difference.basis, difference.count, difference.verdict) == ("seeds", 3, "higher")
    assert difference.value == pytest.approx(means[1] - means[0]) and "in these two runs" not in difference.text
    assert "seeds 42, 43, 44" in report.facts["training"] and report.rows[0].differs == ()


def test_equal_rows_cannot_be_told_apart_and_the_report_says_how_many_seeds_would(make_run):
    report = rows.build(make_run({"a": {"offset": -0.0005}, "b": {}}, seeds=(1, 2, 3), looks=(3,)))
    difference = next(iter(claims(report).values()))
    assert difference.verdict == "cannot tell apart" and difference.more_seeds > 3
    assert f"about {difference.more_seeds} more seeds would tell" in render.markdown(report)


def test_adding_seeds_after_looking_asks_for_more_evidence(make_run):
    planned = rows.build(make_run({"a": {"offset": -0.007}, "b": {}}, seeds=(1, 2, 3), looks=(3,)))
    peeked = rows.build(make_run({"a": {"offset": -0.007}, "b": {}}, "peeked", seeds=(1, 2, 3), looks=(1, 2, 3)))
    first, second = claims(planned)["b"], claims(peeked)["b"]
    assert first.p == second.p and 0.05 / 12 < first.p < 0.025
    assert (first.verdict, second.verdict) == ("higher", "cannot tell apart")
    assert second.low > 0 and f"p {second.p_adjusted:.3f}, where 0.004 is asked" in second.text
    assert any("1, then 2, then 3 a row" in note for note in peeked.notes)


def test_there_is_no_verdict_before_all_seeds_have_ended(make_run):
    folder = make_run({"a": {"offset": -0.01}, "b": {}}, seeds=(42, 43, 44))
    (folder / "a_seed_44" / "result.json").unlink()
    report = rows.build(folder)
    difference = claims(report)["b"]
    assert difference.verdict == "no verdict" and "no verdict; still to end: a seed 44" in difference.text
    assert report.rows[0].status == "2 ok, 1 unfinished"


@pytest.mark.parametrize(
    "changes", [{"seed": 7}, {"training": {"batch": 16}}, {"data_hash": "blake2b:other"}, {"batch_hash": "other"}]
)
def test_rows_on_other_batches_are_not_paired(make_run, changes):
    report = rows.build(make_run({"a": {"offset": -0.005}, "b": {}}))
    assert claims(report)["b"].paired
    folder = (
        make_run({"a": {"offset": -0.005}, "b": changes}) if "seed" not in changes else make_run({"a": {}}, seeds=(1,))
    )
    if "seed" in changes:
        other = make_run({"b": {}}, "other", seeds=(7,))
        report = rows.build(folder, other)
    else:
        report = rows.build(folder)
    found = list(claims(report).values())
    assert found and not any(d.paired for d in found) and not claims(report, "held-out")


def test_a_row_is_compared_with_the_one_that_is_asked_for(make_run):
    folder = make_run({"a": {"offset": -0.02}, "b": {}, "c": {"offset": 0.02}})
    report = rows.build(folder, against="c")
    assert {(d.row, d.verdict) for d in report.differences if d.question == "tokens"} == {
        ("a", "lower"),
        ("b", "lower"),
    }
    with pytest.raises(UserError, match="no such row. Close: c"):
        rows.build(folder, against="cc")


def test_rows_with_too_few_steps_or_a_bad_end_are_not_compared(make_run):
    report = rows.build(make_run({"a": {}, "short": {"steps": 60}, "lost": {"status": "diverged"}}))
    assert claims(report) == {} and claims(report, "time") == {}
    assert {row.label: row.last100_loss is None for row in report.rows} == {"a": False, "short": True, "lost": True}


def test_a_decayed_learning_rate_at_equal_tokens_is_told(make_run):
    folder = make_run({"a": {}, "b": {"steps": 300, "budget": Budget(minutes=1)}})
    path = folder / "a" / "steps.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"lr":0.001', b'"lr":0.0001'))
    assert any("learning rate is 0.0001 in one row and 0.001" in note for note in rows.build(folder).notes)


def test_single_trials_that_differ_in_their_seed_alone_are_one_row(make_run):
    folder = make_run({"a": {}}, seeds=(1, 2, 3))
    for label in ("a_seed_2", "a_seed_3"):
        trial = folder / label / "trial.json"
        trial.write_text(trial.read_text().replace(f'"{label.replace("_", " ")}"', '"a"'))
    report = rows.build(folder / "a", folder / "a_seed_2", folder / "a_seed_3")
    assert [(row.label, row.seeds) for row in report.rows] == [("a", 3)]


def test_rows_of_one_name_in_two_runs_get_their_runs_name(make_run):
    report = rows.build(make_run({"a": {}, "b": {}}, "first"), make_run({"a": {"offset": 0.01}}, "second"))
    assert sorted(row.label for row in report.rows) == ["a (first)", "a (second)", "b"]


def test_a_contaminated_row_keeps_its_numbers_and_its_mark(make_run):
    folder = make_run({"a": {}, "b": {}})
    result = read_json(folder / "b/result.json", Result)
    write_json(folder / "b/result.json", msgspec.structs.replace(result, status="contaminated", message="pid 7 came"))
    row = next(row for row in rows.build(folder).rows if row.label == "b")
    assert (row.status, row.last100_loss is None, row.message) == ("contaminated", False, "pid 7 came")
    report = rows.build(folder)
    timed = claims(report, "time")["b"]
    assert timed.verdict == "no verdict" and "contaminated, so its speed is not its own: b" in timed.text
    assert "no verdict" not in (
        claims(report)["b"].verdict,
        claims(report, "held-out")["b"].verdict,
    )  # a budget of steps
    assert curves.front(report) == {"a"}


def test_two_rows_that_are_the_same_computation_are_called_so(make_run):
    folder = make_run({"a": {}, "b": {}})
    (folder / "b/steps.jsonl").write_bytes((folder / "a/steps.jsonl").read_bytes())
    difference = claims(rows.build(folder))["b"]
    assert difference.verdict == "cannot tell apart" and "the very same numbers" in difference.text
    assert difference.more_seeds is None


def test_a_row_that_is_far_slower_has_no_loss_at_equal_time_and_the_report_says_why(make_run):
    report = rows.build(make_run({"slow": {"step_seconds": 5.0}, "fast": {}}))
    assert {row.label: row.at_equal_time is None for row in report.rows} == {"slow": True, "fast": False}
    assert any("200 steps, 1 with fewer than 100 steps, not shown" in note for note in report.notes)
    assert claims(report, "time") == {} and claims(report)


def test_a_seed_that_came_to_nothing_is_named_where_the_others_are_compared(make_run):
    folder = make_run({"a": {"offset": -0.02}, "b": {}}, seeds=(1, 2, 3), looks=(3,))
    path = folder / "b_seed_3/result.json"
    write_json(path, msgspec.structs.replace(read_json(path, Result), status="diverged"))
    report = rows.build(folder)
    assert claims(report)["b"].count == 2 and claims(report)["b"].text.endswith(" Not counted: b seed 3 (diverged).")
    assert next(row for row in report.rows if row.label == "b").status == "2 ok, 1 diverged at step 201"


def test_held_out_losses_over_other_batches_are_not_compared(make_run):
    report = rows.build(make_run({"a": {}, "b": {"training": {"eval_batches": 8}}}))
    assert claims(report, "held-out") == {} and claims(report)
