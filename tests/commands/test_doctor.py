"""`elmanctl doctor`, on machines made worse one thing at a time."""

import json
import os
import sys
from types import SimpleNamespace

import pytest

from elmanctl import machine
from elmanctl.toolchain import compiler


@pytest.fixture
def doctor(project, monkeypatch, tmp_path):
    """Return a call that runs doctor and gives (exit code, findings by what)."""
    monkeypatch.setenv("ELMANCTL_CACHE", str(tmp_path / "cache"))

    def call(code: int = 0) -> dict[str, dict]:
        compiler.cache_clear()
        ran = project.run("doctor", "--json")
        answer = json.loads(ran.out)
        assert ran.code == code and answer["ok"] is (code == 0)
        return {f["what"]: f for f in answer["findings"]}

    yield call
    compiler.cache_clear()


def test_a_working_machine(doctor):
    found = doctor()
    assert found["Python"]["state"] == "ok" and ".".join(map(str, sys.version_info[:3])) in found["Python"]["found"]
    assert found["torch"]["state"] == "ok"
    assert found["g++"]["state"] == "ok"
    assert found["cache"]["state"] == "ok" and "free" in found["cache"]["found"]
    assert all(f["fix"] for f in found.values() if f["state"] != "ok"), "each problem has its fix"


def test_the_table_names_the_fix(project, doctor):
    ran = project.run("doctor")
    assert ran.code == 0
    assert next(x for x in ran.out.splitlines() if x.startswith("data ")).rstrip().endswith("elmanctl data make")


def test_data_is_found(project, doctor):
    project.write("data/pile.txt", "x" * 1000)
    assert doctor()["data"]["state"] == "ok"


def test_one_compiler_is_enough_and_none_is_not(doctor, monkeypatch, tmp_path):
    monkeypatch.setenv("NVCC", "no_such_nvcc")
    monkeypatch.setattr(machine.toolchain.shutil, "which", lambda name: None if "nvcc" in name else f"/usr/bin/{name}")
    assert doctor()["nvcc"]["state"] == "note"
    monkeypatch.setenv("CXX", "no_such_compiler")
    monkeypatch.setattr(machine.toolchain.shutil, "which", lambda name: None)
    found = doctor(code=1)
    assert found["g++"]["state"] == "problem" and "no_such_compiler is not on PATH" in found["g++"]["found"]
    assert "apt install g++" in found["g++"]["fix"]
    assert found["CXX"]["found"].startswith("'no_such_compiler'")


def test_a_compiler_too_old_for_cxx20_is_no_compiler(doctor, monkeypatch, tmp_path):
    old = tmp_path / "old-g++"
    old.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo "g++ 4.8" && exit\necho "unrecognized option -std=c++20" >&2\nexit 1\n'
    )
    old.chmod(0o755)
    monkeypatch.setenv("CXX", str(old))
    found = doctor(code=0 if machine.compilers()[1].state == "ok" else 1)
    assert "does not compile C++20: unrecognized option" in found["g++"]["found"]


def test_a_torch_that_does_not_import_is_essential(doctor, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    found = doctor(code=1)
    assert found["torch"]["state"] == "problem" and "cannot be imported" in found["torch"]["found"]


def test_a_cpu_torch_beside_a_gpu_is_noted(doctor, monkeypatch):
    import torch

    monkeypatch.setattr(machine, "gpu_targets", lambda: ("sm_90a",))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = doctor()["torch"]
    assert found["state"] == "note" and "cannot use the GPU" in found["found"] and "pytorch.org" in found["fix"]


def test_an_old_python_is_essential(monkeypatch):
    monkeypatch.setattr(machine, "PYTHON", (4, 0))
    assert machine.python().state == "problem"


def test_a_cache_that_cannot_be_written_is_essential(doctor, monkeypatch):
    monkeypatch.setenv("ELMANCTL_CACHE", "/proc/nowhere")
    found = doctor(code=1)
    assert found["cache"]["state"] == "problem" and "ELMANCTL_CACHE" in found["cache"]["fix"]
    assert found["g++"]["state"] == "ok", "it is there, whatever the cache"


def test_little_disk_is_noted(doctor, monkeypatch):
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda folder: SimpleNamespace(free=2**20))
    assert doctor()["cache"]["state"] == "note"


def test_broken_plugins_and_absent_packages_are_noted(project, doctor):
    project.fake("zz1", "ZZ1", 'requires=("no_such_thing",), install="pip install thing"')
    project.write("variants/bad/__init__.py", "raise ValueError('half written')\n")
    found = doctor()
    assert (found["ZZ1"]["found"], found["ZZ1"]["fix"]) == ("needs no_such_thing", "pip install thing")
    assert "half written" in found["bad"]["found"] and "variants/bad" in found["bad"]["fix"]


def test_every_variable_that_the_tool_reads_is_documented():
    package = os.path.dirname(machine.__file__)
    read = set()
    for folder, _, files in os.walk(package):
        for name in files:
            if name.endswith(".py"):
                with open(os.path.join(folder, name)) as file:
                    words = file.read().replace('"', " ").replace("'", " ").split()
                read |= {w for w in words if w.startswith("ELMANCTL_") and w.isupper() and w.replace("_", "").isalpha()}
    assert read == {name for name in {**machine.VARIABLES, **machine.TOLD} if name.startswith("ELMANCTL_")}
