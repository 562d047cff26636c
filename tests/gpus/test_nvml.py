"""What NVML tells, seen through a stand-in for its module."""

import json

import msgspec
import pytest

from elmanctl import gpus, toolchain
from elmanctl.errors import UserError
from elmanctl.gpus.standin import Standin


def test_devices_are_read_and_the_driver_is_let_go(box):
    api = Standin(box.file)
    seen = gpus.Nvml(api).gpus()
    assert [g.index for g in seen] == list(range(8))
    assert (seen[3].uuid, seen[3].target, seen[3].memory_total) == ("GPU-3", "sm_90a", 140 * box.GIB)
    assert seen[1].processes[0].pid == 4_000_001
    assert api.open == 0


@pytest.mark.parametrize(("capability", "target"), [((8, 0), "sm_80"), ((9, 0), "sm_90a"), ((10, 0), "sm_100a")])
def test_the_target_of_a_device_is_the_one_that_builds_and_receipts_are_named_by(box, capability, target):
    gpu = msgspec.structs.replace(gpus.gpus()[0], capability=capability)
    assert gpu.target == toolchain.device_target(*capability) == target


def test_no_driver_is_no_gpu(box):
    box.file.unlink()
    assert gpus.gpus() == []


def test_a_device_that_does_not_answer_is_out_of_order_and_the_others_are_not(box):
    box.change(2, lost=True)
    api = Standin(box.file)
    seen = gpus.Nvml(api).gpus()
    assert [g.fault for g in seen if g.fault] == ["does not answer: GPU is lost"] and seen[2].uuid == "GPU-2"
    assert api.open == 0


def test_a_driver_that_does_not_count_its_devices_is_an_error_and_not_an_empty_box(box):
    api = Standin(box.file)

    def broken():
        raise api.NVMLError("unknown error")

    api.nvmlDeviceGetCount = broken
    with pytest.raises(UserError, match="NVML does not answer: unknown error"):
        gpus.Nvml(api).gpus()
    assert api.open == 0


def test_memory_errors_are_a_fault_and_a_partition_is_seen(box):
    box.change(0, ecc=3)
    box.change(2, rows=[1, 0, 1, 0])
    box.change(5, rows=[1, 0, 0, 1])
    box.change(6, mig=True)
    seen = gpus.gpus()
    assert "3 uncorrected memory errors" in seen[0].fault
    assert "reset" in seen[2].fault and "repair" in seen[5].fault
    assert seen[6].partitioned and not seen[6].fault


def test_a_memory_that_the_driver_does_not_tell_is_no_error(box):
    box.change(0, processes=[[4_000_002, None]])
    assert gpus.gpus()[0].processes == (gpus.GpuProcess(4_000_002, None, "", ""),)


def test_vitals_are_told_in_watts_and_unknown_for_a_lost_device(box):
    box.change(0, throttle=8)
    box.change(2, lost=True)
    vitals = gpus.Nvml().vitals("GPU-0")
    assert (vitals.power, vitals.power_limit, vitals.clock, vitals.throttle) == (500.0, 700.0, 1980, 8)
    assert gpus.Nvml().vitals("GPU-2").power is None
    box.file.unlink()
    assert gpus.Nvml().vitals("GPU-0").clock is None


def test_the_stand_in_knows_every_call_of_the_real_module(box):
    pynvml = pytest.importorskip("pynvml")
    from elmanctl.gpus import standin

    calls = {*standin._PLAIN, *(name for name in vars(Standin) if name.startswith("nvml"))}
    assert [name for name in calls if not hasattr(pynvml, name)] == []
    assert json.loads(box.file.read_text())[1]["utilisation"] == 99
