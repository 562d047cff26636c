"""`--sanitize` on the host: planted mistakes are named with tool, line and tensor; reports are read; what cannot run says so."""

import json
import re

import pytest
from programs import script

from elmanctl import toolchain
from elmanctl.cli import run
from elmanctl.plugins.registry import registry
from elmanctl.verify import sanitize, show
from elmanctl.verify.plan import Plan, Request
from elmanctl.verify.sanitize import process, report
from elmanctl.verify.session import Outcome

LAST = "  p.h_last[i] = h;"
FIRST = "  acc h = p.h0[i];"
NEIGHBOUR = "  acc* s = shared<acc>(0, 64);\n  s[thread_x()] = p.h0[i];\n  {}acc h = p.h0[i] + 0 * s[thread_x() ^ 1];"
SHARED = ('"forward", integrator::blocks(a.B, a.D), 64, 0,', '"forward", integrator::blocks(a.B, a.D), 64, 1024,')


def call(capsys, *arguments):
    code = run(["verify", "Integrator", "--device", "cpu", *arguments])
    said = capsys.readouterr()
    return code, " ".join(said.out.split()), said.err


def edit(folder, *pairs):
    path = folder / f"{folder.name}.cu.cc"
    text = path.read_text()
    for old, new in pairs:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path.write_text(text)


def line_of(folder, text):
    """Return `file:line` of the one line that holds a text."""
    name = f"{folder.name}.cu.cc"
    (number,) = [n for n, line in enumerate((folder / name).read_text().splitlines(), 1) if text in line]
    return f"{name}:{number}"


PLANTED = {
    "a write past the end": (
        "address",
        [(LAST, LAST + " if (i + 1 == p.B * p.D) p.h_last[i + 1] = h;")],
        "p.h_last[i + 1]",
        r"AddressSanitizer: heap-buffer-overflow, write of 4 bytes 0 bytes past the end of h_last \(576 bytes\), at {} in integrator::forward",
    ),
    "a write past the end, in a wrapper, backward": (
        "address",
        [("store(p.d_x + at, carry);", "store(p.d_x + at + p.D, carry);")],
        "store(p.d_x + at + p.D",
        r"heap-buffer-overflow, write of 4 bytes \d+ bytes past the end of d_x .*, at {} in integrator::backward \(through types.cuh:\d+\)",
    ),
    "signed overflow": (
        "address",
        [(LAST, "  volatile int big = 2147483000 + (int)i;\n  big = big + 1000;\n" + LAST)],
        "big = big + 1000",
        r"UndefinedBehaviorSanitizer: signed integer overflow: 2147483000 \+ 1000 cannot be represented in type 'int', at {} in integrator::fo",
    ),
    "no barrier in shared memory": (
        "race",
        [(FIRST, NEIGHBOUR.format("")), SHARED],
        "s[thread_x() ^ 1]",
        r"race: (read after write|write after read) of shared memory byte \d+, block 0 thread \d+ then block 0 thread \d+, no barrier between .*{}",
    ),
    "one element for all threads": (
        "race",
        [(LAST, LAST + "\n  p.h_last[0] = h;")],
        "p.h_last[0]",
        r"race: write after write of tensor h_last byte 0, block 0 thread 0 then block 0 thread 1, .*{}, then {}",
    ),
}


@pytest.mark.parametrize("mistake", PLANTED)
def test_a_planted_mistake_is_named_with_its_line_and_the_command(folder, capsys, mistake):
    tool, edits, marker, said = PLANTED[mistake]
    edit(folder, *edits)
    code, out, err = call(capsys, "--case", f"sanitize {tool} float32")
    place = re.escape(line_of(folder, marker))
    assert code == 1 and "Failed: Integrator." in err
    assert re.search(rf"FAILED sanitize {tool} float32: .*" + said.replace("{}", place), out), out
    assert "(in float32 B3 T1 D48 typical" in out
    assert f'elmanctl verify Integrator --case "sanitize {tool} float32" --device cpu' in out


def test_a_barrier_makes_the_same_kernel_pass(folder, capsys):
    edit(folder, (FIRST, NEIGHBOUR.format("sync_block();\n  ")), SHARED)
    code, out, _ = call(capsys, "--case", "sanitize race float32")
    assert code == 0 and "sanitize race float32: 3 runs in two orders, a barrier between any two accesses" in out


def test_a_right_kernel_passes_with_the_other_checks(folder, capsys):
    code, out, _ = call(capsys, "--quick", "--sanitize", "--json")
    data = json.loads(out)[0]
    checks = {c["id"]: c for c in data["checks"]}
    assert code == 0 and data["ok"]
    for id in ("sanitize address float32", "sanitize race float32"):
        assert checks[id]["ok"] and checks[id]["kind"] == "sanitize" and not checks[id]["not_run"]
        assert "3 runs" in checks[id]["message"] and f'--case "{id}"' in checks[id]["command"]
    assert checks["float32 fiber-order"]["ok"], "orders are compared as well"
    receipt = json.loads((folder / "receipts" / "host.json").read_text())["Integrator"]
    assert receipt["sanitized"] == ["address float32", "race float32"] and receipt["cases"] == len(checks)


def test_both_dtypes_and_the_one_asked_for(spec):
    def ids(**more):
        return [t.id for t in Plan(Request(spec, "cpu", sanitize=True, **more)).tasks() if t.kind == "sanitize"]

    both = [f"sanitize {tool} {dtype}" for tool in ("address", "race") for dtype in ("float32", "bfloat16")]
    assert ids() == both
    assert ids(dtype="float64") == ["sanitize address float64", "sanitize race float64"]
    assert ids(quick=True) == both[::2]


def test_a_request_without_effect_is_refused(folder, capsys):
    assert call(capsys, "--case", "sanitize race float32", "--sanitize")[0] == 2
    code, _, err = call(capsys, "--case", "sanitize rase float32")
    assert code == 2 and "Close: sanitize race float32" in err


def test_a_missing_library_is_named(folder, capsys, tmp_path, monkeypatch):
    script(tmp_path / "g++", 'case "$1" in --version) echo "g++ 12";; *) echo "${1#-print-file-name=}";; esac')
    monkeypatch.setenv("CXX", str(tmp_path / "g++"))
    monkeypatch.setenv("ELMANCTL_CACHE", str(tmp_path / "cache"))
    toolchain.compiler.cache_clear()
    try:
        code, _, err = call(capsys, "--quick", "--sanitize")
    finally:
        toolchain.compiler.cache_clear()
    assert code == 2 and "has no libasan" in " ".join(err.split()) and "apt install" in err


def test_a_model_without_a_kernel_says_that_nothing_ran():
    plan = Plan(Request(registry().resolve("GRU"), "cpu", sanitize=True))
    (task,) = (t for t in plan.tasks() if t.kind == "sanitize")
    check = plan.run(task)
    assert check.ok and check.not_run and check.message == f"not run: {plan.spec.variant.name} has no kernel of its own"
    assert "0 of 0 checks passed, 1 not run" in show.summary(Outcome(plan.request, "host", [check]))


def test_a_child_that_takes_too_long_is_ended():
    ended = process.start({}, {}, seconds=0.05)
    assert ended.code is None and not ended.done


def test_what_the_child_says_is_gathered():
    lines = ['{"begin": "a"}', '{"tensors": {"y": [64, 8]}}', '{"error": "no"}', '{"end": "a"}', "noise", "3", '{"begin": "b"}', '{"en']  # fmt: skip
    found = process.read(lines)
    assert (found.ended, found.last, found.errors) == (["a"], "b", [("a", "no")])
    assert found.tensors == {"y": (64, 8)} and not found.done


def test_an_unknown_report_is_no_finding():
    assert report.read("Segmentation fault", {}) == ""
    text = "==1==ERROR: AddressSanitizer: use-after-poison on address 0x50 at pc 0x1 bp 0x2 sp 0x3\nREAD of size 4 at 0x50 thread T0\n"
    said = "AddressSanitizer: use-after-poison (access past the end of shared memory or of a shared array), read of 4 bytes"
    assert report.read(text, {}) == said + ", at an unknown place"
    assert "8 bytes before y (16 bytes)" in report.read(text, {"y": (0x58, 16)})
    assert "inside y" in report.read(text, {"y": (0x48, 16)})


@pytest.mark.parametrize(
    ("name", "steps"), [("E88h2n8", [1, 9, 19, 67]), ("E88h2n32", [1, 9, 19]), ("E42", [1, 9, 19])]
)
def test_a_build_that_long_sequences_alone_take_is_watched_too(name, steps):
    plan = Plan(Request(registry().resolve(name), "cpu"))
    assert [dict(case.sizes)["T"] for case in sanitize.runs(plan, "bfloat16")] == steps
