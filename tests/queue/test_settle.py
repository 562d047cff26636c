"""What the end of an attempt means, by class."""

import msgspec
import pytest

from elmanctl.files import read_json, write_json
from elmanctl.queue import settle
from elmanctl.records import Result, Training

RESULT = Result(status="ok", steps=7, tokens=70, seconds=1.0)


@pytest.fixture
def ended(line):
    """Return a function that settles an attempt: what the trial left, its exit code and what else is known."""

    def settled(status=None, message="", code=1, asked="", training=None, **facts):
        job = line.queue.jobs.get("a") or line.add(training=training)
        if job.state == "queued":
            line.queue.write("start", "a")
            job = line.queue.write("run", "a")
        if asked:
            job.asked = asked
        folder = line.run / "a"
        folder.mkdir(exist_ok=True)
        (folder / "result.json").unlink(missing_ok=True)
        if status:
            write_json(folder / "result.json", msgspec.structs.replace(RESULT, status=status, message=message))
        verdict = settle.verdict(job, folder, code, **facts)
        if verdict.step == "requeue":
            line.queue.write("requeue", "a", **verdict.facts)
        return verdict

    return settled


def result(line):
    return read_json(line.run / "a" / "result.json", Result)


@pytest.mark.parametrize("status", ["ok", "diverged"])
def test_what_a_trial_says_of_itself_is_its_end(ended, line, status):
    verdict = ended(status, "at step 3" if status == "diverged" else "")
    assert (verdict.step, verdict.facts["status"]) == ("end", status)
    assert result(line).status == status


@pytest.mark.parametrize("code", [-9, -15, -2, -1, None])
def test_a_trial_killed_from_outside_is_tried_again_after_a_while(ended, line, code):
    waits = []
    for _ in range(settle.RETRIES):
        verdict = ended(code=code)
        assert verdict.step == "requeue" and "nobody here asked for" in verdict.facts["why"]
        waits.append(round(verdict.facts["wait"] / 0.05))
    assert waits == [1, 6, 30]
    verdict = ended(code=code)
    assert (verdict.step, verdict.facts["status"]) == ("end", "failed")
    assert "Given up after 4 such attempts" in result(line).message and "log.txt" in result(line).message


def test_progress_starts_the_count_of_failures_anew(ended, line):
    for number in range(1, 7):
        (line.run / "a" / "checkpoints" / f"step_{number:06d}_loss_1.0000").mkdir(parents=True)
        verdict = ended(code=-9)
        assert verdict.step == "requeue" and verdict.facts["failures"] == 1


def test_a_trial_that_somebody_interrupted_is_tried_again(ended):
    assert ended("interrupted").step == "requeue"


@pytest.mark.parametrize("code", [3, 1, 0, -11, -6, -7])
def test_an_error_of_the_code_is_never_tried_again(ended, line, code):
    verdict = ended(code=code)
    assert (verdict.step, verdict.facts["status"]) == ("end", "failed")
    assert settle.how(code) in result(line).message and "log.txt" in result(line).message


@pytest.mark.parametrize(
    ("message", "step"),
    [
        ("runs/r/a/steps.jsonl could not be written: No space left on device.", "requeue"),
        ("AcceleratorError: CUDA error: uncorrectable ECC error encountered", "requeue"),
        ("RuntimeError: No CUDA GPUs; no CUDA-capable device is detected", "requeue"),
        ("AcceleratorError: CUDA error: an illegal memory access was encountered", "end"),
        ("ValueError: shapes differ", "end"),
    ],
)
def test_a_failure_is_the_machines_only_where_the_machine_says_so(ended, message, step):
    assert ended("failed", message).step == step


def test_memory_is_tried_with_smaller_micro_batches_and_the_same_batch_until_there_are_none(ended, line):
    training, seen = Training(batch=12), []
    for _ in range(3):
        verdict = ended("oom", "Out of memory", training=training)
        seen.append((verdict.step, verdict.facts.get("micro_batches")))
    assert seen == [("requeue", 2), ("requeue", 4), ("end", None)]
    assert result(line).status == "oom" and line.job().spec.trial.training.batch == 12


def test_memory_on_several_gpus_leaves_each_of_them_whole_micro_batches(line):
    trial = line.add(training=Training(batch=8), ranks=2).spec.trial
    assert [settle.finer(trial, split) for split in (1, 2, 4)] == [2, 4, None]


@pytest.mark.parametrize(("asked", "says"), [("cancel", "cancelled"), ("stop", "bench --resume")])
def test_what_was_asked_for_is_interrupted_and_not_tried_again(ended, line, asked, says):
    verdict = ended("interrupted", asked=asked)
    assert (verdict.step, verdict.facts["status"]) == ("end", "interrupted") and says in result(line).message


def test_a_trial_that_was_done_before_it_heard_is_ok(ended):
    assert ended("ok", code=0, asked="stop").facts["status"] == "ok"


def test_a_limit_is_a_timeout_with_the_steps_that_were_recorded(ended, line):
    (line.run / "a").mkdir(parents=True)
    text = b'{"step":1,"loss":5.5,"lr":0.1,"grad_norm":1.0,"seconds":0.5,"tokens":10}\n'
    (line.run / "a" / "steps.jsonl").write_bytes(text)
    verdict = ended(code=-9, limit="No step for 600 s")
    assert (verdict.step, verdict.facts["status"]) == ("end", "timeout")
    found = result(line)
    assert (found.status, found.steps, found.tokens, found.seconds) == ("timeout", 1, 10, 0.5)


def test_a_conflict_is_given_back_without_losing_an_attempt(ended):
    verdict = ended(code=-2, conflict="at the same moment came pid 7 her python")
    assert (verdict.step, verdict.facts["failures"]) == ("requeue", 0) and "pid 7" in verdict.facts["why"]


def test_a_damaged_result_counts_as_none(ended, line):
    (line.run / "a").mkdir(parents=True)
    job = line.add()
    (line.run / "a" / "result.json").write_text("{")
    assert settle.verdict(job, line.run / "a", -9).step == "requeue"


def test_to_settle_twice_is_to_settle_once(ended, line):
    first = ended(code=3)
    job, text = line.job(), result(line)
    assert settle.verdict(job, line.run / "a", None).facts["status"] == first.facts["status"]
    assert result(line) == text
