"""Which job goes where, and why the others wait."""

import time

import pytest

from elmanctl.gpus.choice import Pool
from elmanctl.gpus.free import Reason
from elmanctl.queue import decide as module
from elmanctl.queue.decide import Backoff, decide
from elmanctl.queue.states import Job


@pytest.fixture
def spec(line):
    return line.add("first").spec


def jobs(spec, *labels, pool=None, **facts):
    import msgspec

    return {name: Job(name, msgspec.structs.replace(spec, pool=pool), **facts) for name in labels}


def plan(queue, busy=None, backoff=None):
    names = {f"GPU-{n}": f"GPU {n}" for n in range(8)}
    found = decide(queue, lambda uuid: (busy or {}).get(uuid, []), names, backoff or Backoff())
    return [(job.label, device) for job, device in found.starts], found.waiting


def test_the_cpu_takes_one_job_at_a_time_in_order(spec):
    queue = jobs(spec, "a", "b")
    assert plan(queue) == ([("a", "CPU")], {"b": "waits for CPU"})
    queue["a"].state, queue["a"].device = "running", "CPU"
    assert plan(queue) == ([], {"b": "waits for CPU"})


def test_each_free_gpu_of_the_pool_takes_one_and_the_reasons_of_the_others_are_shown(spec):
    pool = Pool(("GPU-0", "GPU-1", "GPU-2"))
    busy = {"GPU-1": [Reason("process", "in use by another process (pid 7)")]}
    starts, waiting = plan(jobs(spec, "a", "b", "c", pool=pool), busy)
    assert starts == [("a", "GPU-0"), ("b", "GPU-2")]
    assert waiting == {"c": "waits for GPU 0, GPU 2: GPU 1 is in use by another process (pid 7)"}


def test_what_to_do_is_said_once_too_few_gpus_of_a_pool_are_left(spec):
    gone, used = [Reason("vanished", "gone")], [Reason("process", "in use")]
    queue = jobs(spec, "a", pool=Pool(("GPU-0", "GPU-1")))
    assert plan(queue, {"GPU-0": gone, "GPU-1": used})[1] == {"a": "waits: GPU 0 is gone; GPU 1 is in use"}
    assert plan(queue, {"GPU-0": gone, "GPU-1": gone})[1]["a"].startswith("waits: GPU 0 is gone; GPU 1 is gone. If ")


def test_any_takes_no_more_than_it_said(spec):
    pool = Pool(tuple(f"GPU-{n}" for n in range(8)), 2)
    queue = jobs(spec, "a", "b", "c", pool=pool)
    assert plan(queue)[0] == [("a", "GPU-0"), ("b", "GPU-1")]
    queue["a"].state, queue["a"].device = "running", "GPU-5"
    starts, waiting = plan(queue)
    assert starts == [("b", "GPU-0")] and waiting == {"c": "waits for one of its 2 GPUs"}


def test_held_and_ended_jobs_start_nothing(spec):
    queue = jobs(spec, "a", state="held", why="tonight") | jobs(spec, "b", state="ended", status="ok")
    assert plan(queue) == ([], {"a": "held: tonight"})


def test_a_job_that_failed_waits_its_time_whatever_the_wall_clock_does(spec):
    clock, wall = [100.0], [1e9]
    backoff = Backoff(lambda: clock[0], lambda: wall[0])
    queue = jobs(spec, "a", wait=60.0, since=1e9, why="killed")
    assert plan(queue, backoff=backoff) == ([], {"a": "again in 60 s: killed"})
    wall[0] -= 1e6  # the clock is set back
    clock[0] += 59
    assert plan(queue, backoff=backoff)[1] == {"a": "again in 1 s: killed"}
    clock[0] += 1
    assert plan(queue, backoff=backoff)[0] == [("a", "CPU")]
    ahead = Backoff(lambda: clock[0], lambda: 0.0)  # the log's time lies in the future
    assert ahead.left(queue["a"]) == 60.0
    later = Backoff(lambda: clock[0], lambda: 1e9 + 45)  # a scheduler that was started meanwhile
    assert later.left(queue["a"]) == pytest.approx(15.0)


def test_a_thousand_jobs_are_decided_in_under_50_milliseconds(spec, record_property):
    pool = Pool(tuple(f"GPU-{n}" for n in range(8)))
    queue = jobs(spec, *(f"job{n}" for n in range(1000)), pool=pool)
    for number, job in enumerate(list(queue.values())[:500]):
        job.state, job.status = ("running", "") if number < 4 else ("ended", "ok")
        job.device = f"GPU-{number}" if number < 4 else ""
    times = []
    for _ in range(5):
        began = time.process_time()
        starts, waiting = plan(queue, {"GPU-7": [Reason("process", "in use")]})
        times.append(time.process_time() - began)
    assert len(starts) == 3 and len(waiting) == 497
    record_property("seconds", min(times))
    assert min(times) < 0.05, times
    assert module.CPU == "CPU"


def several(spec, ranks):
    import msgspec

    return msgspec.structs.replace(spec, trial=msgspec.structs.replace(spec.trial, ranks=ranks))


def test_a_trial_of_several_gpus_gets_them_together_and_is_not_starved_by_smaller_ones(spec):
    pool = Pool(tuple(f"GPU-{n}" for n in range(4)))
    queue = jobs(spec, "x", pool=pool, state="running", device="GPU-0,GPU-2")
    queue |= jobs(several(spec, 3), "a", pool=pool) | jobs(spec, "b", pool=pool)
    starts, waiting = plan(queue)
    assert starts == [] and waiting["a"] == "waits for GPU 0, GPU 2 (2 of 3 GPUs free)"
    assert waiting["b"].startswith("waits for GPU 0, GPU 1, GPU 2, GPU 3")
    queue["x"].state = "ended"
    starts, waiting = plan(queue)
    assert starts == [("a", "GPU-0,GPU-1,GPU-2"), ("b", "GPU-3")]


def test_any_counts_the_gpus_and_not_the_trials(spec):
    queue = jobs(several(spec, 2), "a", "b", pool=Pool(tuple(f"GPU-{n}" for n in range(8)), 3))
    starts, waiting = plan(queue)
    assert starts == [("a", "GPU-0,GPU-1")] and waiting == {"b": "waits for 2 of its 3 GPUs"}
