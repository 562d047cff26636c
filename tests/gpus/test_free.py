"""Every reason why a GPU is not free, by name, over several looks."""

import pytest

from elmanctl.gpus import free, locks


@pytest.fixture
def sampler(box):
    return free.Sampler()


def names(sampler, index):
    return [reason.name for reason in sampler.reasons(f"GPU-{index}")]


def test_each_sign_of_use_has_a_name(box, sampler):
    box.change(5, ecc=1)
    box.change(6, mig=True)
    locks.stay_off("GPU-7", "for Ann until Friday")
    sampler.settle()
    found = {index: names(sampler, index) for index in range(8)}
    assert found == {
        0: [],
        1: ["process"],
        2: [],
        3: ["memory"],
        4: ["utilisation"],
        5: ["fault"],
        6: ["partitioned"],
        7: ["stay-off"],
    }
    assert "pid 4000001" in sampler.reasons("GPU-1")[0].text and "41 GiB" in sampler.reasons("GPU-1")[0].text
    assert "holding 5 GiB" in sampler.reasons("GPU-3")[0].text
    assert "for Ann until Friday" in sampler.reasons("GPU-7")[0].text


def test_a_single_quiet_look_is_not_enough(box, sampler):
    sampler.sample()
    assert "not watched for long enough" in sampler.reasons("GPU-0")[0].text
    sampler.settle()
    assert sampler.reasons("GPU-0") == []


def test_use_seen_in_one_of_the_last_looks_counts_until_it_is_out_of_sight(box, sampler):
    sampler.settle()
    box.change(0, utilisation=50)
    sampler.sample()
    box.change(0, utilisation=0)
    for _ in range(free.SAMPLES - 1):
        assert names(sampler, 0) == ["utilisation"]
        sampler.sample()
    assert names(sampler, 0) == ["utilisation"]
    sampler.sample()
    assert names(sampler, 0) == []


def test_a_gpu_that_vanished_is_not_free(box, sampler):
    sampler.settle()
    box.only(*box.devices[:7])
    sampler.sample()
    assert names(sampler, 7) == ["vanished"]
    box.change(2, lost=True)
    sampler.sample()
    assert names(sampler, 2) == ["fault"]


def test_a_lock_is_a_reason_that_names_its_holder(sampler):
    sampler.settle()
    held = locks.acquire("GPU-0", "run r, row a")
    (reason,) = sampler.reasons("GPU-0")
    assert reason.name == "locked" and "run r, row a" in reason.text
    locks.release(held)
    assert sampler.reasons("GPU-0") == []


@pytest.mark.parametrize(("mask", "inside"), [("0,2", {0, 2}), ("GPU-5", {5}), ("", set())])
def test_an_inherited_mask_is_honoured(sampler, monkeypatch, mask, inside):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", mask)
    sampler.settle()
    assert {index for index in (0, 2, 5, 6, 7) if names(sampler, index) == []} == inside
    assert all("masked" in names(sampler, index) for index in {0, 2, 5, 6, 7} - inside)
