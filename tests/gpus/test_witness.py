"""What the samples of a run say."""

import msgspec
import pytest

from elmanctl.files import read_json, write_json
from elmanctl.gpus import GpuProcess, gpus, verdict, witness
from elmanctl.gpus.verdict import judge
from elmanctl.gpus.witness import Sample, Sight
from elmanctl.records import Result

GOOD = Sample(time=1000.0, clock=1980, power=600.0, temperature=60)


def samples(count, **odd):
    """Return a hundred samples, the first `count` of them with other facts."""
    return [msgspec.structs.replace(GOOD, **odd)] * count + [GOOD] * (100 - count)


def test_no_sample_is_no_witness():
    assert judge([]).verdict == "unwatched"


def test_one_sample_with_a_foreign_process_is_enough(box):
    found = judge(samples(1, foreign=("pid 7 her python",)))
    assert found.verdict == "contaminated" and "in 1 of 100 samples" in found.evidence[0]
    assert found.foreign == ("pid 7 her python",)


@pytest.mark.parametrize(("bit", "count", "expected"), [
    (0x40, 5, "clean"), (0x40, 6, "contaminated"), (0x08, 50, "contaminated"), (0x80, 6, "contaminated"),
    (0x20, 6, "contaminated"), (0x04, 100, "clean"), (0x01, 100, "clean"), (0x02, 100, "clean"),
])  # fmt: skip
def test_throttling_counts_from_a_share_on_and_a_power_cap_or_idling_never(bit, count, expected):
    found = judge(samples(count, throttle=bit))
    assert found.verdict == expected and found.clock == 1980.0
    assert bool(found.evidence) == (expected == "contaminated")


def test_a_lost_device_is_evidence():
    assert "does not answer" in judge(samples(1, fault="does not answer: GPU is lost")).evidence[0]


def test_damaged_samples_are_left_out(tmp_path):
    (tmp_path / witness.SAMPLES).write_bytes(
        msgspec.json.encode(GOOD) + b'\n{\n\xff\n{"time":1,"gpu":"\xff"}\n' + msgspec.json.encode(GOOD)[:9]
    )
    assert witness.read(tmp_path) == [GOOD]


def test_a_sample_cut_off_by_a_kill_costs_no_other(box, tmp_path):
    whole = msgspec.json.encode(GOOD) + b"\n"
    for before, kept in ((b"", 0), (whole, 1), (whole + whole[:30], 1)):
        (tmp_path / witness.SAMPLES).write_bytes(before)
        witness.Witness(tmp_path, ("GPU-0",), lambda: set()).look()
        assert len(witness.read(tmp_path)) == kept + 1


def test_a_contaminated_trial_that_did_not_end_well_keeps_its_status(tmp_path):
    (tmp_path / witness.SAMPLES).write_bytes(msgspec.json.encode(samples(1, foreign=("x",))[0]) + b"\n")
    assert verdict.conclude(tmp_path, "diverged") == "diverged"
    assert (tmp_path / verdict.VERDICT).exists()
    assert verdict.conclude(tmp_path / "nothing", "ok") == "ok"


def seen(*pids, memory=2**32):
    """Return a free GPU on which NVML lists these processes."""
    return msgspec.structs.replace(
        gpus()[0], processes=tuple(GpuProcess(pid, 1, "", "") for pid in pids), memory_used=memory
    )


def test_where_our_pid_is_listed_every_other_is_foreign(box):
    sight = Sight()
    assert sight.look(seen(1), {1}) == ([], "")
    found, how = sight.look(seen(1, 4_000_001), {1})
    assert [p.pid for p in found] == [4_000_001] and how == ""
    found, how = Sight().look(seen(1), {99})
    assert [p.pid for p in found] == [1] and how == ""  # it exists here, and is not ours


def test_a_process_of_ours_that_has_ended_is_ours_until_it_leaves_the_list(box):
    """Seen on an H200: the last sample of a run listed its trainer, which had ended two seconds before."""
    sight = Sight()
    assert sight.look(seen(1), {1, 7}) == ([], "")
    assert sight.look(seen(1), {7}) == ([], "") and sight.look(seen(1), {7}) == ([], "")
    assert sight.look(seen(), {7})[0] == []
    assert [p.pid for p in sight.look(seen(1), {7})[0]] == [1]  # the number came back with another's process
    assert [p.pid for p in Sight().look(seen(7, 1), {7})[0]] == [1]


def test_of_pids_of_another_namespace_the_first_is_taken_for_ours_from_then_on(box):
    sight = Sight()
    assert sight.look(seen(4_000_001), {99}) == ([], "assumed")
    found, how = sight.look(seen(4_000_002, 4_000_001), {99})
    assert [p.pid for p in found] == [4_000_002] and how == "assumed"
    found, how = sight.look(seen(4_000_002), {99})  # ours has ended
    assert [p.pid for p in found] == [4_000_002] and how == ""


def test_a_gpu_in_use_without_a_listed_process_is_not_called_clean(box):
    assert Sight().look(seen(), {99}) == ([], "blind") and Sight().look(seen(memory=2**20), {99}) == ([], "")
    blind = judge(samples(60, sight="blind"))
    assert blind.verdict == "blind" and blind.evidence == () and "lists no processes" in blind.notes[0]
    assumed = judge(samples(60, sight="assumed"))
    assert assumed.verdict == "clean" and "another namespace" in assumed.notes[0]


def test_memory_that_an_unlisted_process_gave_back_is_evidence_and_our_own_end_is_not():
    def run(*gib, **facts):
        facts = {"sight": "blind", "training": True} | facts
        return judge([msgspec.structs.replace(GOOD, memory=round(g * 2**30), **facts) for g in gib])

    found = run(4, 4, 6, 6, 4, 4, 4)
    assert found.verdict == "contaminated" and "2 GiB of memory on the GPU were given back" in found.evidence[0]
    assert run(4, 4, 4, 0.4).verdict == "blind"
    assert run(8, 4, 4, 4, training=False).verdict == "blind"  # before the first step, warming up
    left = "GPU 0 still holds 2 GiB 10 s after the trial ended."
    assert left in judge(samples(100, sight="blind"), left).evidence[0] and judge(samples(100), left).evidence == ()
    assert run(6, 4, 4, 4, sight="").verdict == "clean"  # the processes are listed, and none was foreign


def test_a_trial_that_ends_while_nvml_is_asked_is_not_a_stranger(box, tmp_path, monkeypatch):
    """Seen on an H200: the last sample of a run named its own process."""
    asked, nvml = [], witness.gpus.Nvml
    monkeypatch.setattr(witness.gpus, "Nvml", lambda: asked.append(1) or nvml())
    box.change(0, processes=[[1, 1], [4_000_009, 1]])
    watching = witness.Witness(tmp_path, ("GPU-0",), lambda: {1} if asked else {1, 4_000_009})
    watching.look()
    assert [s.foreign for s in witness.read(tmp_path)] == [()]


def test_each_of_several_gpus_is_watched(box, tmp_path):
    watching = witness.Witness(tmp_path, ("GPU-0", "GPU-2"), lambda: {1})
    box.change(2, processes=[[4_000_009, 1]], throttle=0x80)
    box.change(0, processes=[[1, 1]])
    watching.look()
    found = witness.read(tmp_path)
    assert [s.gpu for s in found] == ["GPU-0", "GPU-2"] and found[0].foreign == ()
    box.change(2, processes=[[4_000_009, 1], [4_000_010, 1]])
    watching._next = 0.0
    watching.look()
    evidence = judge(witness.read(tmp_path)).evidence
    assert evidence[0].startswith("processes of others on GPU-2 in 1 of 2 samples") and "pid 4000010" in evidence[0]
    assert evidence[1] == "GPU-2 throttled by power brake in 100% of the samples" and len(evidence) == 2


def test_what_was_not_seen_is_in_the_result_of_a_run_that_is_ok(tmp_path):
    (tmp_path / witness.SAMPLES).write_bytes(msgspec.json.encode(samples(1, sight="blind")[0]) + b"\n")
    write_json(tmp_path / "result.json", Result(status="ok", steps=1, tokens=1, seconds=1.0))
    assert verdict.conclude(tmp_path, "ok") == "ok"
    assert "lists no processes" in read_json(tmp_path / "result.json", Result).warnings[0]
    assert verdict.conclude(tmp_path, "ok") == "ok"  # settled once more, after its supervisor was killed
    assert len(read_json(tmp_path / "result.json", Result).warnings) == 1
