"""Builds: key, cache, lock, errors. The toy kernel compiles for the host; the device build is checked where nvcc exists."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from elmanctl import build, resources, toolchain
from elmanctl.errors import UserError
from elmanctl.plugins.discovery import forget, load_folder

TOY = Path(__file__).parent / "toy" / "leaky"
CONSTANTS = {"GAIN": 0}


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """A copy of the toy variant that a test may edit, with a cache of its own."""
    folder = tmp_path / "variants" / "copied"
    shutil.copytree(TOY, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "leaky.cu.cc").rename(folder / "copied.cu.cc")
    monkeypatch.setenv("ELMANCTL_CACHE", str(tmp_path / "cache"))
    load_folder(folder)
    import elmanctl_variants.copied.binding as binding

    yield binding.kernel
    forget("elmanctl_variants.copied")


def source(kernel):
    return toolchain.kernel_source(toolchain.folder_of(kernel))


def edit(kernel, old, new):
    text = source(kernel).read_text()
    assert old in text
    source(kernel).write_text(text.replace(old, new))


def test_cache_is_hit_until_a_reached_file_changes(kernel, monkeypatch):
    first = build.build(kernel, CONSTANTS, "float32", "host")
    monkeypatch.setattr(build, "execute", lambda call: pytest.fail("compiled again"))
    assert build.build(kernel, CONSTANTS, "float32", "host") == first
    keys = {build.key(kernel, CONSTANTS, "float32", "host"), build.key(kernel, CONSTANTS, "float64", "host")}
    keys.add(build.key(kernel, {"GAIN": 1}, "float32", "host"))
    edit(kernel, "// h[t]", "// changed h[t]")
    keys.add(build.key(kernel, CONSTANTS, "float32", "host"))
    assert len(keys) == 4


def test_a_header_in_the_folder_shadows_the_shared_one(kernel):
    folder = toolchain.folder_of(kernel)
    shared = build.csrc_folder() / "elman" / "math.cuh"
    assert shared in toolchain.sources(folder)
    (folder / "elman").mkdir()
    shutil.copy(shared, folder / "elman" / "math.cuh")
    reached = toolchain.sources(folder)
    assert (folder / "elman" / "math.cuh").resolve() in reached and shared not in reached


def test_a_compiler_error_is_one_message_with_its_line(kernel):
    edit(kernel, "acc h = p.h0[i];", "acc h = p.h0[i] + nonsense;")
    with pytest.raises(UserError, match=r"does not compile.*copied\.cu\.cc:\d+: .*nonsense"):
        build.build(kernel, CONSTANTS, "float32", "host")
    assert not list((toolchain.cache_folder() / "kernels").glob(".building-*"))


def test_a_full_disk_is_told_from_an_error_in_the_kernel(kernel, monkeypatch, tmp_path):
    compiler = tmp_path / "full-g++"
    compiler.write_text(
        "#!/bin/sh\n[ $1 = --version ] && echo g++ 1 && exit\necho '/tmp/a.s: Fatal error: No space left on device' >&2\nexit 1\n"
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    toolchain.compiler.cache_clear()
    with pytest.raises(UserError, match="The disk is full.*Free some space in .*ELMANCTL_CACHE"):
        build.build(kernel, CONSTANTS, "float32", "host")
    toolchain.compiler.cache_clear()


def test_no_compiler_is_said_with_what_to_do(kernel, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    toolchain.compiler.cache_clear()
    with pytest.raises(UserError, match="No compiler for target host: no-such-compiler is not on PATH. Install g"):
        build.build(kernel, CONSTANTS, "float32", "host")
    toolchain.compiler.cache_clear()


def test_requests_outside_the_declaration_are_refused(kernel):
    with pytest.raises(UserError, match="has no float64 build for sm_90a"):
        build.build(kernel, CONSTANTS, "float64", "sm_90a")
    with pytest.raises(UserError, match="constants GAIN given or missing"):
        build.build(kernel, {}, "float32", "host")


def test_two_kernels_in_a_folder_are_refused(kernel):
    shutil.copy(source(kernel), source(kernel).with_name("second.cu.cc"))
    with pytest.raises(UserError, match="exactly one .cu.cc file"):
        build.build(kernel, CONSTANTS, "float32", "host")


def test_a_killed_build_leaves_neither_lock_nor_half_a_library(kernel, tmp_path):
    name = build.key(kernel, CONSTANTS, "float32", "host")
    script = f"""
import os, signal
from elmanctl import build
with build.locked({name!r}):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", script]).returncode == -9
    assert (build.build(kernel, CONSTANTS, "float32", "host") / "kernel.so").exists()


def test_build_needs_no_torch(kernel):
    script = "import sys, elmanctl.build; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")
@pytest.mark.parametrize("target", ["sm_80", "sm_90a"])
def test_device_build_reports_resources(kernel, target):
    folder = build.build(kernel, CONSTANTS, "bfloat16", target)
    import json

    rows = json.loads((folder / "report.json").read_text())
    assert sorted(r["function"] for r in rows) == ["leaky::backward", "leaky::forward"]
    assert all(0 < r["registers"] <= 255 and r["spill_bytes"] == 0 for r in rows)
    assert resources.over_budget(rows, {"registers": 255}) == []
    assert "above the budget of 8" in resources.over_budget(rows, {"registers": 8})[0]


def test_previous_report_is_that_of_the_build_before(kernel):
    cache = toolchain.cache_folder()
    assert resources.previous_report(cache, "p", {}, "float32", "sm_90a") is None
    for key in ("one", "two"):
        (cache / "kernels" / key).mkdir(parents=True)
        (cache / "kernels" / key / "report.json").write_text(f'[{{"function": "{key}"}}]')
        resources.remember(cache, "p", {}, "float32", "sm_90a", key)
    assert resources.previous_report(cache, "p", {}, "float32", "sm_90a") == [{"function": "one"}]
