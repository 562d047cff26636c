"""`--sanitize`: planted mistakes are named with tool, line and tensor; reports are read; what cannot run says so."""

import json
import os
import re
import stat
from types import SimpleNamespace

import pytest

from elmanctl import toolchain
from elmanctl.cli import run
from elmanctl.plugins.registry import registry
from elmanctl.verify import show
from elmanctl.verify.plan import Plan, Request
from elmanctl.verify.sanitize import device, process, report
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


# In the format that the manual of compute-sanitizer documents; not recorded from a device.
FRAME = "/tmp/v.cu.cc"
MEMCHECK = f"""========= COMPUTE-SANITIZER
========= Invalid __global__ write of size 4 bytes
=========     at void v::forward<8>(args::Forward)+0x1a0 in {FRAME}:26
=========     by thread (3,0,0) in block (2,0,0)
=========     Address 0x7f5ffa000300 is out of bounds
=========     and is 1 bytes after the nearest allocation at 0x7f5ffa000100 of size 512 bytes
=========     Saved host backtrace up to driver entry point at kernel launch time
=========         Host Frame: main [0x1754] in python
=========
========= ERROR SUMMARY: 1 error
"""
RACECHECK = f"""========= COMPUTE-SANITIZER
========= Error: Race reported between Write access at v::forward(args::Forward)+0x90 in {FRAME}:27
=========     and Read access at v::forward(args::Forward)+0x100 in {FRAME}:34 [508 hazards]
=========
========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)
"""
INITCHECK = f"""========= COMPUTE-SANITIZER
========= Uninitialized __global__ memory read of size 4 bytes
=========     at 0x70 in {FRAME}:41:v::backward(args::Backward)
=========     by thread (31,0,0) in block (1,0,0)
=========     Address 0x7f3c7ec000fc
========= ERROR SUMMARY: 257 errors
========= ERROR SUMMARY: 237 errors were not printed. Use --print-limit option to adjust the number of printed errors
"""
SYNCCHECK = f"""========= COMPUTE-SANITIZER
========= Barrier error detected. Divergent thread(s) in block.
=========     at elman::sync_block()+0x2c8 in /tmp/elman/sync.cuh:12
=========     by thread (0,0,0) in block (0,0,0)
=========         Device Frame: v::forward(args::Forward)+0xb0 in {FRAME}:53
========= ERROR SUMMARY: 16 errors
"""
CLEAN = "========= COMPUTE-SANITIZER\n========= ERROR SUMMARY: 0 errors\n"
NO_HAZARD = "========= COMPUTE-SANITIZER\n========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n"
OTHERS = MEMCHECK.replace("void v::forward<8>(args::Forward)", "void at::native::fill<4>(int)").replace(
    "v.cu.cc", "Fill.cu"
)
UNSUPPORTED = """========= COMPUTE-SANITIZER
========= Error: Device not supported. Please refer to the "Supported Devices" section of the sanitizer documentation
=========
========= ERROR SUMMARY: 1 error
"""
DONE = process.Ended(0, "", ended=["a", "b"], done=True)
BROKEN_OFF = process.Ended(-11, "Segmentation fault", ended=["a"], last="b")


@pytest.mark.parametrize(
    ("text", "tool", "count", "parts"),
    [
        (MEMCHECK, "memcheck", 1, ["Invalid __global__ write of size 4 bytes", "v.cu.cc:26", "thread (3,0,0) in block (2,0,0)", "nearest allocation"]),
        (RACECHECK, "racecheck", 1, ["Race reported between Write access", "v.cu.cc:27 and Read access", "v.cu.cc:34 [508 hazards]"]),
        (INITCHECK, "initcheck", 257, ["Uninitialized __global__ memory read", "v.cu.cc:41"]),
        (SYNCCHECK, "synccheck", 16, ["Divergent thread(s) in block", "sync.cuh:12", "v.cu.cc:53"]),
    ],
)  # fmt: skip
def test_a_finding_of_compute_sanitizer_fails_whatever_the_exit_code(text, tool, count, parts):
    reading = device.read(text, {"v.cu.cc", "sync.cuh"})
    assert reading.count == count and len(reading.ours) == 1
    for ended in (DONE, BROKEN_OFF):
        ok, said, ran = device.verdict(reading, ended, tool)
        assert not ok and ran and "0x1a0" not in said and "Host Frame" not in said
        assert all(part in said for part in parts), said


@pytest.mark.parametrize("text", [CLEAN, NO_HAZARD])
def test_a_clean_report_passes_only_if_the_run_came_to_its_end(text):
    reading = device.read(text, {"v.cu.cc"})
    assert device.verdict(reading, DONE, "memcheck") == (True, "2 runs forward and backward, nothing found", True)
    ok, said, ran = device.verdict(reading, BROKEN_OFF, "racecheck")
    assert not ok and ran and "broke off: Segmentation fault" in said


def test_a_tool_that_cannot_watch_is_named_as_not_run():
    ok, said, ran = device.verdict(device.read(UNSUPPORTED, {"v.cu.cc"}), DONE, "memcheck")
    assert ok and not ran and said.startswith("not run: compute-sanitizer says: Device not supported")
    ok, said, ran = device.verdict(device.read("", {"v.cu.cc"}), DONE, "memcheck")
    assert ok and not ran and said == "not run: memcheck left no summary, so it saw nothing"


def test_findings_in_other_kernels_are_counted_but_not_ours():
    reading = device.read(OTHERS, {"v.cu.cc"})
    assert reading.ours == [] and reading.elsewhere == 1
    assert device.verdict(reading, DONE, "memcheck")[1].endswith("1 findings outside this kernel, in other code")
    undescribed = device.read(CLEAN.replace("0 errors", "3 errors"), {"v.cu.cc"})
    ok, said, _ = device.verdict(undescribed, DONE, "memcheck")
    assert not ok and "counts 3 errors that its report does not describe" in said


def test_the_tool_is_called_with_a_log_of_its_own(folder, spec, tmp_path, monkeypatch):
    asked = Plan(Request(spec, "cpu"))
    plan = SimpleNamespace(request=SimpleNamespace(target="host", seed=0), spec=spec, kernel=asked.kernel)
    plan.constants = asked.constants
    text = MEMCHECK.replace("v.cu.cc", f"{folder.name}.cu.cc")
    (tmp_path / "report").write_text(text)
    body = f'echo "$PYTORCH_NO_CUDA_MEMORY_CACHING $@" > {tmp_path}/call; cp {tmp_path}/report "$6"; echo \'{{"done": true}}\''
    script(tmp_path / "bin" / "compute-sanitizer", body)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    ok, said, ran = device.check(plan, "memcheck", [asked.kernel_tasks(quick=True)[0].case])
    assert not ok and ran and f"{folder.name}.cu.cc:26" in said
    assert re.match(
        r"1 --tool memcheck --print-limit 20 --log-file \S+ .*sanitize.child$", (tmp_path / "call").read_text()
    )
    monkeypatch.setattr(device, "find", lambda: None)
    assert device.check(plan, "memcheck", [])[1:] == (
        "not run: compute-sanitizer is not installed (it comes with the CUDA toolkit)",
        False,
    )


def script(path, body):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
