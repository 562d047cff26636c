"""Reports of compute-sanitizer are read and judged; what it cannot watch is named as not run."""

import os
import re
from types import SimpleNamespace

import pytest
from programs import script

from elmanctl.verify.plan import Plan, Request
from elmanctl.verify.sanitize import device, process

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
