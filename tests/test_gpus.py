"""What NVML tells, seen through a stand-in for its module: eight devices, some of them with neighbours."""

from types import SimpleNamespace

import msgspec
import pytest

from elmanctl import gpus, toolchain
from elmanctl.errors import UserError

GIB = 2**30


class FakeApi:
    """As much of pynvml as is used. `devices` holds (used bytes, utilisation, [(pid, bytes)]) for each GPU."""

    class NVMLError(Exception):
        pass

    def __init__(self, devices, driver=True, partitioned=()):
        self.devices, self.driver, self.partitioned, self.open = devices, driver, partitioned, 0

    def nvmlInit(self):
        if not self.driver:
            raise self.NVMLError("driver not loaded")
        self.open += 1

    def nvmlShutdown(self):
        self.open -= 1

    def nvmlDeviceGetCount(self):
        return len(self.devices)

    def nvmlDeviceGetHandleByIndex(self, index):
        return index

    def nvmlDeviceGetUUID(self, handle):
        return f"GPU-{handle}".encode()

    def nvmlDeviceGetName(self, handle):
        return "NVIDIA H200"

    def nvmlDeviceGetMemoryInfo(self, handle):
        return SimpleNamespace(total=140 * GIB, used=self.devices[handle][0])

    def nvmlDeviceGetUtilizationRates(self, handle):
        if handle in self.partitioned:
            raise self.NVMLError("not supported")
        return SimpleNamespace(gpu=self.devices[handle][1])

    def nvmlDeviceGetCudaComputeCapability(self, handle):
        return (9, 0)

    def nvmlDeviceGetComputeRunningProcesses(self, handle):
        return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in self.devices[handle][2]]


FREE = (GIB // 2, 0, [])
BOX = [FREE, (41 * GIB, 99, [(4_000_001, 41 * GIB)]), FREE, (5 * GIB, 0, []), (GIB // 2, 87, []), FREE, FREE, FREE]


@pytest.fixture
def box():
    return gpus.Nvml(FakeApi(BOX)).gpus()


def test_devices_are_read_and_the_driver_is_let_go():
    api = FakeApi(BOX)
    box = gpus.Nvml(api).gpus()
    assert [g.index for g in box] == list(range(8))
    assert (box[3].uuid, box[3].target, box[3].memory_total) == ("GPU-3", "sm_90a", 140 * GIB)
    assert api.open == 0


@pytest.mark.parametrize(("capability", "target"), [((8, 0), "sm_80"), ((9, 0), "sm_90a"), ((10, 0), "sm_100a")])
def test_the_target_of_a_device_is_the_one_that_builds_and_receipts_are_named_by(box, capability, target):
    gpu = msgspec.structs.replace(box[0], capability=capability)
    assert gpu.target == toolchain.device_target(*capability) == target


def test_no_driver_is_no_gpu():
    assert gpus.Nvml(FakeApi([], driver=False)).gpus() == []


def test_a_device_that_does_not_answer_is_an_error_and_not_an_empty_box():
    api = FakeApi(BOX)

    def lost(handle):
        raise api.NVMLError("GPU is lost")

    api.nvmlDeviceGetMemoryInfo = lost
    with pytest.raises(UserError, match="NVML does not answer: GPU is lost"):
        gpus.Nvml(api).gpus()
    assert api.open == 0


def test_a_partitioned_device_without_utilisation_still_shows_its_processes():
    (gpu,) = gpus.Nvml(FakeApi([BOX[1]], partitioned=(0,))).gpus()
    assert gpu.utilisation == 0 and "pid 4000001" in gpu.busy


def test_each_sign_of_use_is_a_reason(box):
    reasons = {g.index: g.busy for g in box if g.busy}
    assert set(reasons) == {1, 3, 4}
    assert "in use by another process (pid 4000001" in reasons[1] and "41 GiB" in reasons[1]
    assert "holding 5 GiB" in reasons[3]
    assert "87 % utilised" in reasons[4]


def test_a_memory_that_the_driver_does_not_tell_is_no_error():
    (gpu,) = gpus.Nvml(FakeApi([(GIB, 0, [(4_000_001, None)])])).gpus()
    assert "4000001" in gpu.busy


def test_without_a_choice_every_free_gpu_is_taken(box):
    assert [g.index for g in gpus.select(None, box)] == [0, 2, 5, 6, 7]


def test_a_choice_keeps_its_order_and_counts_a_gpu_once(box):
    assert [g.index for g in gpus.select("5-7,0,6", box)] == [5, 6, 7, 0]


def test_a_busy_choice_is_refused_with_the_reason_and_the_free_ones(box):
    with pytest.raises(UserError) as error:
        gpus.select("0-2", box)
    assert "GPU 1 is in use by another process" in str(error.value)
    assert "Choose with --gpus 0,2,5,6,7" in str(error.value)
    with pytest.raises(UserError, match="GPU 1 is in use(.|\n)*GPU 3 is holding(.|\n)*GPU 4 is 87 %"):
        gpus.select("all", box)


def test_none_free_lists_every_reason():
    box = gpus.Nvml(FakeApi([BOX[1], BOX[3]])).gpus()
    with pytest.raises(UserError, match="No GPU is free.\nGPU 0 is in use(.|\n)*GPU 1 is holding"):
        gpus.select(None, box)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("9", "there is no GPU 9; this machine has GPUs 0 to 7"),
        ("0-9", "there is no GPU 9"),
        ("5-0", "5-0 runs backwards. Try 0-5"),
        ("", "cannot read ''"),
        ("a", "cannot read 'a'"),
        ("0,,2", "cannot read ''"),
        ("-3", "cannot read '-3'"),
    ],
)
def test_a_text_that_names_no_gpus_is_refused(box, text, says):
    with pytest.raises(UserError) as error:
        gpus.select(text, box)
    assert says in str(error.value)


def test_no_gpu_at_all_points_to_what_runs_without():
    with pytest.raises(UserError, match="bench smoke"):
        gpus.select("0", [])
