"""`elmanctl gpus`: the devices of this machine and what holds them."""

import json

from elmanctl.gpus import locks


def test_free_and_busy_devices_are_listed_with_each_reason(project, box):
    lines = project.run("gpus").out.splitlines()
    assert "free" in lines[1] and "GPU-0" in lines[1]
    assert "process: in use by another process (pid 4000001; 41 GiB)" in lines[2]
    listed = json.loads(project.run("gpus", "--json").out)
    assert listed[0]["free"] and listed[0]["reasons"] == []
    assert listed[1]["processes"][0]["pid"] == 4_000_001 and [r["name"] for r in listed[1]["reasons"]] == ["process"]


def test_a_lock_shows_its_holder(project, box):
    held = locks.acquire("GPU-2", "run night, row a")
    try:
        assert "locked: locked by elmanctl" in project.run("gpus").out.splitlines()[3]
        assert json.loads(project.run("gpus", "--json").out)[2]["holder"]["what"] == "run night, row a"
    finally:
        locks.release(held)


def test_the_stay_off_list_is_kept_by_the_command(project, box):
    out = project.run("gpus", "--off", "5-6", "--why", "for Ann until Friday").out.splitlines()
    assert "stay-off: on the stay-off list (for Ann until Friday)" in out[6] and "stay-off" in out[7]
    out = project.run("gpus", "--on", "5").out.splitlines()
    assert "free" in out[6] and "stay-off" in out[7]
    ran = project.run("gpus", "--why", "x")
    assert ran.code == 2 and "--off" in ran.err
    assert "there is no GPU 9" in project.run("gpus", "--off", "9").err


def test_no_gpu_is_said_and_is_no_error(project, box):
    box.file.unlink()
    ran = project.run("gpus")
    assert ran.code == 0 and ran.out == "" and "no GPU" in ran.err
    assert json.loads(project.run("gpus", "--json").out) == []
    assert project.run("gpus", "--off", "0").code == 2
