"""What the samples of a run say."""

import msgspec
import pytest

from elmanctl.gpus import GpuProcess, gpus, witness
from elmanctl.gpus.witness import Sample, judge

GOOD = Sample(time=1000.0, clock=1980, power=600.0, temperature=60)


def samples(count, **odd):
    """Return a hundred samples, the first `count` of them with other facts."""
    return [msgspec.structs.replace(GOOD, **odd)] * count + [GOOD] * (100 - count)


def test_no_sample_is_no_witness():
    assert judge([]).verdict == "unwatched"


def test_one_sample_with_a_foreign_process_is_enough(box):
    verdict = judge(samples(1, foreign=("pid 7 her python",)))
    assert verdict.verdict == "contaminated" and "in 1 of 100 samples" in verdict.evidence[0]
    assert verdict.foreign == ("pid 7 her python",)


@pytest.mark.parametrize(("bit", "count", "expected"), [
    (0x40, 5, "clean"), (0x40, 6, "contaminated"), (0x08, 50, "contaminated"), (0x80, 6, "contaminated"),
    (0x20, 6, "contaminated"), (0x04, 100, "clean"), (0x01, 100, "clean"), (0x02, 100, "clean"),
])  # fmt: skip
def test_throttling_counts_from_a_share_on_and_a_power_cap_or_idling_never(bit, count, expected):
    verdict = judge(samples(count, throttle=bit))
    assert verdict.verdict == expected and verdict.clock == 1980.0
    assert bool(verdict.evidence) == (expected == "contaminated")


def test_a_lost_device_is_evidence():
    assert "does not answer" in judge(samples(1, fault="does not answer: GPU is lost")).evidence[0]


def test_damaged_samples_are_left_out(tmp_path):
    (tmp_path / witness.SAMPLES).write_bytes(msgspec.json.encode(GOOD) + b"\n{\n\xff\n" + msgspec.json.encode(GOOD)[:9])
    assert witness.read(tmp_path) == [GOOD]


def test_a_contaminated_trial_that_did_not_end_well_keeps_its_status(tmp_path):
    (tmp_path / witness.SAMPLES).write_bytes(msgspec.json.encode(samples(1, foreign=("x",))[0]) + b"\n")
    assert witness.conclude(tmp_path, "diverged") == "diverged"
    assert (tmp_path / witness.VERDICT).exists()
    assert witness.conclude(tmp_path / "nothing", "ok") == "ok"


def test_our_own_processes_are_not_foreign_also_where_their_pids_are_those_of_another_namespace(box):
    gpu = gpus()[0]

    def others(*pids, ours):
        found = msgspec.structs.replace(gpu, processes=tuple(GpuProcess(pid, 1, "", "") for pid in pids))
        return [p.pid for p in witness.foreign(found, ours)]

    assert others(1, ours={1}) == []
    assert others(1, 4_000_001, ours={1}) == [4_000_001]
    assert others(4_000_001, ours={99}) == []  # unseen from here, and ours is not listed: it is ours
    assert others(4_000_001, 4_000_002, ours={99}) == [4_000_002]
    assert others(1, ours={99}) == [1]
