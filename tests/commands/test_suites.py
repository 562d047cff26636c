"""`elmanctl suites`: what is there, one of them sized, and files that do not load."""

import json
import subprocess
import sys


def test_the_shipped_suites_are_listed(project):
    data = json.loads(project.run("suites", "--json").out)
    names = {suite["name"] for suite in data["suites"]}
    assert {
        "e75_100m",
        "e75_extended",
        "baselines",
        "quick_test",
        "e88_nstate",
        "e88_heads",
        "e88_vs_baselines",
    } <= names
    assert {
        "e33_e41",
        "e4_against_e1",
        "e4_rank",
        "jan14",
        "ladder_100m",
        "e42_vs_baselines",
        "e88_ablation",
        "e88_jan22",
        "e88_output_gate",
        "e88_tanh_or_linear",
        "e88_state_size",
        "e88_towards_gdn",
        "ladder_40m",
        "levels_50m",
        "matrix_100m",
        "self_gate_against_tanh",
        "tanh_or_linear",
        "smoke",
        "standard",
    } <= names
    assert data["problems"] == []
    table = project.run("suites").out
    assert all(name in table for name in names) and "100M unmatched" in table


def test_one_suite_is_shown_sized(project):
    ran = project.run("suites", "smoke")
    assert ran.code == 0 and "E88h4n16" in ran.out and "Spread:" in ran.out and "within 3 % of 235K" in ran.out
    own = project.run("suites", "self_gate_against_tanh").out
    assert own.count("align 16") == 2, "the marks of rows with a step of their own"


def test_a_suite_that_waives_the_method_s_alignment_says_so(project):
    """One line where `align` is the suite's, marks where it is a row's; both in JSON."""
    assert "within 3 % of 235K, align 16." in project.run("suites", "smoke").out
    data = json.loads(project.run("suites", "smoke", "--json").out)
    assert data["align"] == 16 and {row["align"] for row in data["rows"]} == {None}
    data = json.loads(project.run("suites", "self_gate_against_tanh", "--json").out)
    assert data["align"] is None and [row["align"] for row in data["rows"]] == [None, 16, 16]


def test_a_file_that_does_not_load_is_named_and_the_others_are_listed(project):
    project.write("suites/odd.yaml", "description: d\nrows: [{model: E42}]\nsize: 3\n")
    ran = project.run("suites")
    assert ran.code == 0 and "smoke" in ran.out
    assert "suites/odd.yaml: unknown key size" in " ".join(ran.err.split())


def test_torch_is_not_imported_for_the_list():
    code = "import sys; from elmanctl import cli; cli.run(['suites']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
