"""`elmanctl dims`: its tables, its JSON, and what it refuses."""

import json

import pytest


def test_one_model_shows_the_widths_around_the_budget(project):
    ran = project.run("dims", "E75h4n32", "--params", "100M")
    assert ran.code == 0
    below, above = (line for line in ran.out.splitlines() if line.startswith("E75h4n32"))
    assert "1920x20" in below and "98,838,400" in below and "-1.2%" in below and "nearest, within 6 %" in below
    assert "2048x20" in above and "+10.7%" in above and "nearest" not in above
    assert "320 KiB" in below


def test_a_budget_that_is_missed_names_the_step_that_meets_it(project):
    missed = project.run("dims", "E34", "E75h4n32", "--params", "8M")
    assert "NOT within 6 %" in missed.out
    (said,) = (line for line in missed.err.splitlines() if "--align" in line)
    step = said.partition("--align ")[2].split()[0]
    assert said.startswith("E34: ")
    met = project.run("dims", "E34", "--params", "8M", "--align", step)
    assert "nearest, within 6 %" in met.out and "--align" not in met.err


def test_json_has_both_sides_and_the_verdict(project):
    (fit,) = json.loads(project.run("dims", "E75h4n32", "--params", "100M", "--tolerance", "1%", "--json").out)
    assert fit["nearest"] == fit["below"] and fit["nearest"]["params"] == 98_838_400
    assert fit["above"]["dim"] == 2048 and fit["nearest"]["error"] == pytest.approx(-0.011616)
    assert fit["within"] is False and fit["nearest"]["state_bytes"] == 20 * 4 * 32 * 32 * 4


def test_depth_align_and_options_have_an_effect(project):
    base = ["dims", "E88h4n16", "--params", "5M", "--json"]
    (usual,) = json.loads(project.run(*base).out)
    (deep,) = json.loads(project.run(*base, "--depth", "40").out)
    (fine,) = json.loads(project.run(*base, "--align", "16").out)
    (gated,) = json.loads(project.run(*base, "-o", "use_gate=true").out)
    assert deep["nearest"]["depth"] == 40 and deep["nearest"]["dim"] < usual["nearest"]["dim"]
    assert fine["nearest"]["dim"] % 128 and abs(fine["nearest"]["error"]) <= abs(usual["nearest"]["error"])
    assert gated["model"] == "E88h4n16:use_gate=true" and gated["nearest"]["dim"] < usual["nearest"]["dim"]


def test_a_given_width_is_counted(project):
    (size,) = json.loads(project.run("dims", "E42", "--dim", "1536", "--depth", "6", "--json").out)
    assert (size["params"], size["dim"], size["depth"]) == (42_880_512, 1536, 6)
    ran = project.run("dims", "E42", "--dim", "1536", "--depth", "6", "--params", "40M")
    assert "+7.2%" in ran.out and "NOT within 6 %" in ran.out


def test_a_suite_is_sized_and_can_be_moved_to_another_budget(project):
    project.write(
        "suites/two.yaml", "description: d\nparams: 1M\ndepth: 2\nalign: 16\nrows: [{model: gru}, {model: E42}]\n"
    )
    data = json.loads(project.run("dims", "--suite", "two", "--json").out)
    assert [row["label"] for row in data["rows"]] == ["gru", "E42"] and all(row["within"] for row in data["rows"])
    moved = json.loads(project.run("dims", "--suite", "two", "--params", "3M", "--json").out)
    assert [abs(row["params"] - 3_000_000) < 180_000 for row in moved["rows"]] == [True, True]
    ran = project.run("dims", "--suite", "two")
    assert "Spread:" in ran.out and "within 6 % of 1M" in ran.out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["E75h4n32", "--params", "100Q"], "unknown suffix Q"),
        (["E75h4n32", "--params", "10K"], "out of reach at depth 20: the smallest legal width, 128, has"),
        (["E75h4n20", "--params", "100M"], "n_state=20 is not a multiple of 8"),
        (["E75h4x", "--params", "100M"], "Unknown variant E75h4x. Close: E75h4"),
        (["E75h4n32", "--dim", "1000"], "dim=1000 is not a multiple of 16"),
        (["E75h4n32", "--dim", "1024", "--align", "16"], "give one of them"),
        (["E75h4n32", "--dim", "1024", "--tolerance", "1%"], "give --params too"),
        (["E75h4n32", "--dim", "2097152"], "dim=2097152 is more than 1048576"),
        (["E75h4n32", "--depth", "100000000"], "100000000 is not in the range 1<=x<=10000"),
        (["E75h99999999999999999999n32"], "n_heads=99999999999999999999 is more than 2147483647"),
        (["E75h4n32", "--align", "8"], "align 8 is not a multiple of 16"),
        (["E75h4n32", "--tolerance", "6"], "--tolerance 6 is not between 0 and 1"),
        (["E75h4n32", "-o", "n_heads"], "n_heads"),
        (["E75h4n32", "-o", "n_heads=8"], "contradicts"),
        (["E75h4n32", "--params", ""], "--params  is not a number"),
        ([], "one of the three"),
        (["E42", "--standard"], "one of the three"),
        (["--standard", "--dim", "128"], "--dim goes with model names"),
        (["--suite", "smok"], "Unknown suite smok. Close: smoke"),
    ],
)
def test_bad_input(project, arguments, says):
    ran = project.run("dims", *arguments)
    assert ran.code == 2 and says in ran.err and ran.out == ""
