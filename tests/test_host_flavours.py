"""Builds of the host backend in each flavour: the address and undefined-behaviour sanitizers see into fibers, and what each build needs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from host_backend.binding import kernel
from planted_kernels import SOURCE

from elmanctl import build, toolchain
from elmanctl.flavours import ASAN, FLAVOURS
from elmanctl.verify.sanitize import host, report


def test_a_device_build_needs_the_cuda_language(tmp_path):
    compiler = toolchain.compiler(toolchain.HOST)[0]
    call = [
        compiler,
        "-std=c++20",
        f"-I{toolchain.csrc_folder()}",
        "-DELMAN_DEVICE",
        "-x",
        "c++",
        "-fsyntax-only",
        str(SOURCE),
    ]
    ran = subprocess.run(call, capture_output=True, text=True)
    assert ran.returncode and "pass -x cu to nvcc" in ran.stderr


CHILD = """
import sys
from elmanctl.flavours import ASAN
from planted_kernels import Planted, expected
import torch
library = Planted(ASAN)
for which in ("none", "early_exit", "none"):
    y, error = library.run(which)
    assert which != "none" or (error == "" and torch.equal(y[:64], expected("none"))), error
print("right kernels pass", flush=True)
library.run(sys.argv[1])
print("not reached" if sys.argv[1] == "local_array" else "done")
"""


def test_address_and_undefined_sanitizers_see_into_fibers():
    build.build(kernel, {}, "float32", ASAN)
    environment = os.environ | host.OPTIONS | {"LD_PRELOAD": ":".join(toolchain.preload(ASAN))}
    environment["PYTHONPATH"] = str(Path(__file__).parent)
    call = [sys.executable, "-c", CHILD, "local_array"]
    ran = subprocess.run(call, capture_output=True, text=True, env=environment)
    assert "right kernels pass" in ran.stdout, ran.stderr
    assert "not reached" not in ran.stdout
    found = report.read(ran.stderr, {})
    assert re.search(r"out of bounds|stack-buffer-overflow", found) and "at planted.cu.cc:" in found
    assert found.endswith(" in turn_around")


def test_a_build_for_address_sanitizer_does_not_end_a_process_without_it():
    with pytest.raises(RuntimeError, match="can be loaded only with LD_PRELOAD=.*libasan"):
        build.load(kernel, {}, "float32", ASAN)


def test_flavours_are_builds_of_their_own():
    folders = {build.build(kernel, {}, "float32", target) for target in FLAVOURS}
    assert len(folders) == 3 and all((f / "kernel.so").exists() for f in folders)
