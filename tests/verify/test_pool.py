"""Workers: results in order, a death or a hang loses one call alone, an unfit worker is replaced, nothing is left behind."""

import os
import time

import psutil
import pytest

from elmanctl import build
from elmanctl.errors import UserError
from elmanctl.toolchain import HOST
from elmanctl.verify import pool, session
from elmanctl.verify.plan import Request


class Plan:
    """What workers are asked for in these tests."""

    def square(self, x):
        return x * x

    def pid(self):
        return os.getpid()

    def die(self):
        os.abort()

    def hang(self):
        while True:
            time.sleep(1)

    def refuse(self):
        raise UserError("no such thing")

    def odd(self):
        class Local(Exception):
            pass

        raise Local("cannot be sent")


def gather(calls, count=2, seconds=20.0, **more):
    return pool.gather(lambda: pool.forked(Plan()), [pool.Call(*c) for c in calls], count, seconds, **more)


def test_results_come_in_order_and_each_is_counted():
    seen = []
    assert gather([("square", (i,)) for i in range(20)], progress=seen.append) == [i * i for i in range(20)]
    assert seen == list(range(1, 21))


def test_a_death_and_a_hang_lose_their_own_call_and_the_rest_go_on():
    pool.prepare()
    started = time.monotonic()
    found = gather([("square", (2,)), ("die",), ("hang",), ("square", (3,)), ("die",), ("square", (4,))], seconds=1.5)
    assert [found[i] for i in (0, 3, 5)] == [4, 9, 16]
    assert all(isinstance(found[i], pool.Lost) for i in (1, 2, 4))
    assert found[1].text == pool.DIED and "it hangs" in found[2].text
    assert time.monotonic() - started < 15
    assert not [p for p in psutil.Process().children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE]


def test_what_a_call_raises_comes_back_whole_or_in_words():
    refused, odd = gather([("refuse",), ("odd",)])
    assert isinstance(refused, UserError) and "no such thing" in str(refused)
    assert isinstance(odd, RuntimeError) and str(odd) == "Local: cannot be sent"


def test_a_worker_that_is_no_longer_fit_is_replaced():
    """As after a fault of the device, from which its process does not recover."""

    def start():
        import multiprocessing

        mine, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("fork").Process(
            target=lambda: pool.serve(theirs, Plan(), fit=lambda: False), daemon=True
        )
        process.start()
        theirs.close()
        return pool.Worker(mine, lambda: (mine.close(), process.kill(), process.join()))

    pids = pool.gather(start, [pool.Call("pid")] * 3, 1, 20.0)
    assert len(set(pids)) == 3


def test_a_fresh_worker_has_the_plan_of_the_request(spec):
    request = Request(spec, "cpu", seed=7, quick=True)
    from elmanctl.verify.plan import Plan as Real

    tasks = Real(request).tasks()
    calls = [pool.Call("device_facts"), pool.Call("run", (tasks[0],))]
    facts, check = pool.gather(lambda: pool.fresh(request), calls, 1, 60.0)
    assert facts == {"target": "host", "name": "host"} and check.ok and check.id == tasks[0].id


@pytest.mark.parametrize(("device_path", "seconds"), [(False, 3.0), (True, 10.0)])
def test_a_kernel_that_hangs_in_one_case_fails_that_case(folder, spec, monkeypatch, device_path, seconds):
    """Checks that end have a minute, however busy the machine; a fresh process has to start within the time of the one that hangs."""
    path = folder / f"{folder.name}.cu.cc"
    text = path.read_text()
    path.write_text(
        text.replace("acc h = p.h0[i];", "acc h = p.h0[i]; for (volatile int k = 0; p.T == 2 && k < 2;) {}")
    )
    assert text != path.read_text()
    monkeypatch.setattr(pool, "SECONDS", seconds)
    call, hangs = session._call, "float32 B3 T2 D48 typical"
    monkeypatch.setattr(
        session, "_call", lambda task, truth: call(task, truth)._replace(seconds=None if task.id == hangs else 60.0)
    )
    request = Request(spec, "cpu", quick=True, dtype="float32")
    plan = session.Plan(request)
    build.build(plan.kernel, plan.constants, "float32", HOST)  # so that the time is the kernel's
    if device_path:
        checks, _ = session.on_device(plan, plan.tasks(), lambda done: None, 2, seconds)
    else:
        checks = session.verify(request).checks
    bad = {c.id: c.message for c in checks if not c.ok}
    assert list(bad) == [hangs] and f"no end within {seconds:.0f} s: it hangs" in bad[hangs]


@pytest.mark.parametrize(
    ("text", "most"), [("max 100000", None), ("150000 100000", 2), ("1000 100000", 1), ("nonsense", None)]
)
def test_no_more_workers_than_cores_and_the_share_of_the_control_group(text, most, tmp_path):
    (tmp_path / "cpu.max").write_text(text)
    allowed = len(os.sched_getaffinity(0))
    assert (
        pool.cores(tmp_path / "cpu.max") == min(allowed, most or allowed) and pool.cores(tmp_path / "none") == allowed
    )
