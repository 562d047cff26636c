"""`elmanctl build`, on the template's kernel and the host backend unless said otherwise."""

import json
import re
import shutil

import pytest

from elmanctl import build, resources
from elmanctl.commands.build import figure
from elmanctl.toolchain import compiler

needs_gxx = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not on PATH")
needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not on PATH")


@pytest.fixture
def fresh(project, monkeypatch, tmp_path):
    """Return a project with the variant ZZ9 made from the template, and an empty build cache."""
    monkeypatch.setenv("ELMANCTL_CACHE", str(tmp_path / "cache"))
    compiler.cache_clear()
    assert project.run("new", "ZZ9").code == 0
    yield project
    compiler.cache_clear()


@needs_gxx
def test_a_build_and_then_the_cache(fresh):
    arguments = ("build", "ZZ9", "--arch", "host", "--dtype", "float32", "--json")
    first, second = (json.loads(fresh.run(*arguments).out) for _ in range(2))
    (a,), (b,) = first["builds"], second["builds"]
    assert (a["model"], a["dtype"], a["target"], a["cached"], b["cached"]) == ("ZZ9", "float32", "host", False, True)
    assert a["folder"] == b["folder"] and a["functions"] == [] == a["over_budget"]
    ran = fresh.run("build", "ZZ9", "--arch", "host", "--dtype", "float32")
    assert ran.code == 0 and "cached" in ran.out and "no registers to count" in ran.out


@needs_gxx
def test_the_first_compiler_error_with_its_line(fresh):
    source = fresh.path / "variants/zz9/zz9.cu.cc"
    lines = source.read_text().splitlines()
    source.write_text("\n".join([*lines[:3], "int x = undeclared_thing;", *lines[3:]]) + "\n")
    ran = fresh.run("build", "ZZ9", "--arch", "host", "--dtype", "float32", "-j", "1")
    assert ran.code == 2 and ran.out == ""
    assert "variants/zz9/zz9.cu.cc:4: " in ran.err and "undeclared_thing" in ran.err
    assert "Traceback" not in ran.err


def test_no_compiler_at_all_is_said_once(fresh, monkeypatch):
    monkeypatch.setenv("CXX", "no_such_compiler")
    ran = fresh.run("build", "ZZ9", "--arch", "host")
    assert ran.code == 2
    assert ran.err.count("No compiler for target host: no_such_compiler is not on PATH") == 1
    assert "elmanctl doctor" in ran.err


@needs_nvcc
def test_device_figures_without_a_gpu(fresh):
    ran = fresh.run("build", "ZZ9", "--arch", "sm_90", "--dtype", "bfloat16", "--json")
    (one,) = json.loads(ran.out)["builds"]
    assert one["target"] == "sm_90a"
    functions = {f["function"]: f for f in one["functions"]}
    assert set(functions) == {"zz9::forward", "zz9::backward"}
    assert all(0 < f["registers"] <= 255 and f["spill_bytes"] == 0 for f in functions.values())
    table = fresh.run("build", "ZZ9", "--arch", "sm_90", "--dtype", "bfloat16").out
    assert "zz9::forward" in table and str(functions["zz9::forward"]["registers"]) in table


REPORT = [
    {"function": "f", "registers": 168, "spill_bytes": 4, "stack_bytes": 0, "shared_bytes": 0, "warps_per_sm": 12}
]


@needs_gxx
def test_a_figure_over_its_budget_exits_1(fresh, monkeypatch):
    monkeypatch.setattr(resources, "read_report", lambda log, target: REPORT)
    monkeypatch.setattr(
        resources, "previous_report", lambda *a: [{"function": "f", "registers": 160, "spill_bytes": 4}]
    )
    ran = fresh.run("build", "ZZ9", "--arch", "host", "--dtype", "float32")
    assert ran.code == 1
    assert ran.err == "ZZ9 float32 host: f: spill_bytes=4 is above the budget of 0 in binding.py.\n"
    assert "168 (+8)" in ran.out and "4 of 0" in ran.out


@needs_gxx
def test_on_a_chip_for_which_no_budget_was_set_a_figure_above_it_is_a_remark(fresh, monkeypatch):
    monkeypatch.setattr(resources, "read_report", lambda log, target: REPORT)
    monkeypatch.setattr(resources, "GATED", ())
    assert resources.gated("host") and not resources.gated("sm_90a")
    monkeypatch.setattr(resources, "gated", lambda target: False)
    ran = fresh.run("build", "ZZ9", "--arch", "host", "--dtype", "float32")
    assert ran.code == 0
    assert ran.err == "Remark: ZZ9 float32 host: f: spill_bytes=4 is above the budget of 0 in binding.py.\n"
    assert "4 of 0" in ran.out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((None, 3, 4), ("", False)),
        ((168, None, None), ("168", False)),
        ((168, 168, 168), ("168", False)),
        ((168, 170, None), ("168 (-2)", False)),
        ((168, 160, 164), ("168 (+8) of 164", True)),
    ],
)
def test_figure(arguments, expected):
    assert figure(*arguments) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Name the variants to build, or give --all"),
        (["ZZ9", "--all"], "Name the variants to build, or give --all"),
        (["ZZ8"], "Unknown variant ZZ8. Close: ZZ9"),
        (["gru"], "gru has no kernel; "),
        (["ZZ9", "-o", "linar=true"], "ZZ9 has no option linar. Close: linear"),
        (["ZZ9", "-o", "linear"], "'linear' is not option=value"),
        (["ZZ9", "--arch", "hopper"], "--arch hopper is no target"),
        (["ZZ9", "--arch", "host", "--dtype", "float16"], "--dtype float16 is not one of float32, bfloat16, float64"),
        (["ZZ9", "--arch", "sm_90", "--dtype", "float64"], "no float64 build for sm_90a"),
        (["ZZ9", "-j", "0"], "-j"),
        (["ZZ9", "--size", "B=3"], "--size B=3: the build of ZZ9 depends on no run-time size"),
        (["E42", "--arch", "host", "--size", "Q=3"], "--size Q=3: the build of E42 depends on B and D"),
        (["--all", "--size", "Q=3"], "--size Q=3: no build depends on it"),
        (["E42", "--arch", "host", "--size", "B=1000000000000"], "B=1000000000000 is more than 2147483647"),
        (["E42", "--size", "B=" + 5000 * "9"], "is more than 2147483647"),
        (["E42", "--size", "B=3", "--size", "B=4"], "B=3 is given already"),
    ],
)
def test_a_bad_request_exits_2(fresh, arguments, message):
    ran = fresh.run("build", *arguments)
    assert ran.code == 2 and ran.out == "" and message in ran.err, ran.err


def test_all_takes_the_kernels_and_every_dtype_of_the_target(fresh, monkeypatch):
    built = []

    def note(kernel, constants, dtype, target):
        built.append((kernel.package.rsplit(".", 1)[1], dtype, target))
        raise build.UserError("not now")

    monkeypatch.setattr(build, "key", lambda *a: "none")
    monkeypatch.setattr(build, "build", note)
    ran = fresh.run("build", "--all", "--arch", "host", "--arch", "sm_80")
    *notes, error = ran.err.splitlines()
    assert ran.code == 2 and error == "not now"
    assert all(re.match(r"Left out: \w+ for sm_80: D=\d+.* in \w+: .* do not fit", text) for text in notes)
    assert {b[1:] for b in built if b[0] == "zz9"} == {
        *(("float32", t) for t in ("host", "sm_80")),
        *(("bfloat16", t) for t in ("host", "sm_80")),
        ("float64", "host"),
    }
    assert not {"gru", "lstm"} & {b[0] for b in built}
