"""`elmanctl gpus`: the devices of this machine and what holds them."""

import json

from elmanctl import gpus

SHAPE = {"name": "H200", "memory_total": 140 * 2**30, "utilisation": 0, "capability": (9, 0)}
BOX = [
    gpus.Gpu(index=0, uuid="GPU-a", memory_used=0, **SHAPE),
    gpus.Gpu(
        index=1, uuid="GPU-b", memory_used=2**35, processes=(gpus.GpuProcess(7, 2**35, "her", "python"),), **SHAPE
    ),
]


def test_free_and_busy_devices_are_listed_with_the_reason(project, monkeypatch):
    monkeypatch.setattr(gpus, "gpus", lambda: BOX)
    lines = project.run("gpus").out.splitlines()
    assert "free" in lines[1] and "GPU-a" in lines[1]
    assert "in use by another process (pid 7 her python; 32 GiB)" in lines[2]
    first, second = json.loads(project.run("gpus", "--json").out)
    assert first["busy"] is None and second["processes"][0]["pid"] == 7


def test_no_gpu_is_said_and_is_no_error(project, monkeypatch):
    monkeypatch.setattr(gpus, "gpus", list)
    ran = project.run("gpus")
    assert ran.code == 0 and ran.out == "" and "no GPU" in ran.err
    assert json.loads(project.run("gpus", "--json").out) == []
