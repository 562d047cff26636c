"""Processes by pid, start and boot."""

import os
import subprocess
import sys
import time

from elmanctl.queue import process


def test_an_identity_is_of_one_process_only():
    me = process.me()
    assert process.alive(me) and me.pid == os.getpid()
    assert not process.alive(process.Identity(me.pid, me.start - 1, me.boot))
    assert not process.alive(process.Identity(me.pid, me.start, "elsewhere 0"))
    assert not process.alive(None)
    assert process.elsewhere(process.Identity(1, 1, "elsewhere 0")) and not process.elsewhere(me)


def test_a_process_that_has_ended_is_not_alive_before_it_is_waited_for():
    child = subprocess.Popen(["sleep", "60"])
    who = process.of(child.pid)
    assert process.alive(who)
    child.kill()
    deadline = time.monotonic() + 5
    while process.alive(who):
        assert time.monotonic() < deadline
    child.wait()
    assert process.of(child.pid) is None


def test_the_whole_tree_is_found_and_ended_also_what_left_the_session():
    code = (
        "import subprocess, sys, time\n"
        "subprocess.Popen(['sleep', '60'])\n"
        "subprocess.Popen(['sleep', '61'], start_new_session=True)\n"
        "subprocess.Popen(['env', '-i', 'sleep', '62'])\n"
        "print('up', flush=True)\n"
        "time.sleep(60)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, process.MARK: "x:y:1"},
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    other = subprocess.Popen(["sleep", "63"], env={**os.environ, process.MARK: "x:y:2"}, start_new_session=True)
    try:
        assert child.stdout.readline() == b"up\n"
        who = process.of(child.pid)
        deadline = time.monotonic() + 5
        while len(process.members(who, "x:y:1")) < 4:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert process.end(who, "x:y:1") == set()
        assert child.wait() == -9 and process.members(who, "x:y:1") == set()
        assert other.poll() is None
    finally:
        other.kill()
        child.kill()
