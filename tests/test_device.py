import pytest
import torch

from elmanctl.device import choose, name_of, peak_memory, target_of
from elmanctl.errors import UserError


def test_the_cpu_is_always_there_and_has_a_name():
    cpu = choose("cpu")
    assert cpu.type == "cpu" and target_of(cpu) == "host" and name_of(cpu)


def test_auto_takes_cuda_where_there_is_some(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose("auto").type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose("auto").type == "cuda"


def test_a_device_that_does_not_exist_is_refused(monkeypatch):
    for name in ("gpu", "cuda:", "cpu:1", "cuda:x"):
        with pytest.raises(UserError, match=f"Unknown device {name}"):
            choose(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="No CUDA device is visible"):
        choose("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose("cuda:1").index == 1
    with pytest.raises(UserError, match="cuda:2 does not exist: torch sees 2"):
        choose("cuda:2")


def test_peak_memory_of_a_cpu_run_is_the_process_s():
    before = peak_memory(torch.device("cpu"))
    block = torch.ones(64 << 18)  # 64 MiB
    assert peak_memory(torch.device("cpu")) >= before > 10**7 and block.sum() > 0
