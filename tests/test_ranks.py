"""Trials of two processes on the CPU, with gloo: equal to one process, and as hard to confuse."""

import importlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time

import msgspec
import psutil
import pytest

from elmanctl import ranks, train
from elmanctl.errors import UserError
from elmanctl.files import read_json, write_json
from elmanctl.records import Result, check_shares, read_steps
from elmanctl.runlog import rank_folder, read_heldout
from elmanctl.trial import main


def start(folder, trial, *more):
    """Start a trial as its supervisor does."""
    write_json(folder / "trial.json", msgspec.structs.replace(trial, ranks=2))
    call = [sys.executable, "-m", "elmanctl.trial", str(folder), *more]
    return subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def end(process, code):
    out, _ = process.communicate(timeout=120)
    assert process.returncode == code, out
    return out


def together(folder, trial, *more):
    """Run a trial's two processes without the launcher, forked from this one, which has torch; return their exit codes."""
    importlib.import_module("torch._dynamo")  # which DDP imports
    write_json(folder / "trial.json", msgspec.structs.replace(trial, ranks=2))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    meeting = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    children = []
    for rank in range(2):
        if (pid := os.fork()) == 0:
            os.environ |= {**meeting, "RANK": str(rank)}
            os._exit(main([str(folder), "--one-of-several", *more]))
        children.append(pid)
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]


def records(folder):
    """Return what a run recorded, without what is measured."""
    result = msgspec.to_builtins(read_json(folder / "result.json", Result))
    for name in ("seconds", "tokens_per_second", "peak_memory_bytes"):
        result.pop(name)
    return [(s.step, s.loss, s.lr, s.grad_norm, s.tokens) for s in read_steps(folder / "steps.jsonl")], result


def wait_for(process, condition, seconds=90.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)


def test_two_processes_give_the_losses_of_one(trainee, tmp_path):
    """Bit for bit those of one process that takes the batch in the same two halves: (a + b) / 2 is a / 2 + b / 2 in binary.

    Against the whole batch at once only the order of sums over 64 targets differs; a run of 12 steps carries that on.
    """
    trial = trainee.trial(steps=12, eval_every=5, eval_batches=3)
    assert together(tmp_path / "two", trial) == [0, 0]
    train.run(msgspec.structs.replace(trial, micro_batches=2), tmp_path / "halves")
    train.run(trial, tmp_path / "whole")
    assert together(tmp_path / "four", msgspec.structs.replace(trial, micro_batches=2)) == [0, 0]
    assert records(tmp_path / "two") == records(tmp_path / "halves")
    assert read_heldout(tmp_path / "two/heldout.jsonl") == read_heldout(tmp_path / "halves/heldout.jsonl")
    steps, result = records(tmp_path / "two")
    whole, of_whole = records(tmp_path / "whole")
    assert result["batch_hash"] == of_whole["batch_hash"] and len(steps) == 12
    for steps in (records(tmp_path / name)[0] for name in ("two", "four")):
        assert [s[1] for s in steps] == pytest.approx([s[1] for s in whole], rel=1e-5)
    assert sorted(p.name for p in (tmp_path / "two").iterdir()) == [
        "heldout.jsonl", "result.json", "steps.jsonl", "trial.json"
    ]  # fmt: skip


def test_an_interrupt_and_a_killed_rank_cost_nothing_but_time(trainee, tmp_path):
    trial = trainee.trial("Toy:seconds=0.01", steps=60)
    go_on = ("--go-on", "--checkpoint-seconds", "0.2")
    train.run(msgspec.structs.replace(trial, micro_batches=2), tmp_path / "calm")
    folder = tmp_path / "rough"
    steps, checkpoints = folder / "steps.jsonl", folder / "checkpoints"

    first = start(folder, trial, *go_on)
    wait_for(first, lambda: steps.exists() and steps.stat().st_size > 200)
    first.send_signal(signal.SIGINT)
    end(first, 1)
    stopped = read_json(folder / "result.json", Result)
    assert stopped.status == "interrupted" and f"step_{stopped.steps:06d}" in str(list(checkpoints.iterdir()))

    second = start(folder, trial, *go_on)
    wait_for(second, lambda: len(read_steps(steps)) > stopped.steps)
    second.send_signal(signal.SIGUSR1)  # as for a trial that hangs
    wait_for(second, lambda: len(read_steps(steps)) > stopped.steps + 4)
    follower = next(p for p in psutil.Process(second.pid).children() if p.environ().get("RANK") == "1")
    follower.kill()
    out = end(second, -signal.SIGKILL)  # which is tried again
    assert f"Resuming after step {stopped.steps}" in out and out.count("most recent call first") >= 2
    assert not (folder / "result.json").exists() and not list(folder.glob(".rank*"))

    assert together(folder, trial, *go_on) == [0, 0]
    assert records(folder) == records(tmp_path / "calm")
    assert not checkpoints.exists()


def test_divergence_ends_both_and_is_recorded_once(trainee, tmp_path):
    assert together(tmp_path / "run", trainee.trial("Toy:break_at=8", steps=50, eval_every=4)) == [1, 0]
    found = read_json(tmp_path / "run/result.json", Result)
    assert found.status == "diverged" and found.steps == 7 and "first not finite: output of layers" in found.message
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        "diverged_step_000008.npy", "heldout.jsonl", "result.json", "steps.jsonl", "trial.json"
    ]  # fmt: skip


def write(folder, rank, status, message, moment):
    place = rank_folder(folder, rank)
    write_json(place / "result.json", Result(status=status, steps=0, tokens=0, seconds=0.0, message=message))
    os.utime(place / "result.json", (moment, moment))


def test_the_first_failure_of_the_ranks_is_the_trials(tmp_path):
    lost = "RuntimeError: Connection closed by peer [127.0.0.1]:4"
    write(tmp_path, 0, "failed", lost, 50)
    write(tmp_path, 1, "oom", "out of memory at batch 4", 60)
    assert ranks.settle(tmp_path, {0: 1, 1: 1}) == 1
    assert read_json(tmp_path / "result.json", Result).status == "oom"
    write(tmp_path, 0, "failed", lost, 50)
    assert ranks.settle(tmp_path, {0: 1, 1: -9}) == -9 and not (tmp_path / "result.json").exists()
    write(tmp_path, 0, "failed", lost, 50)
    assert ranks.settle(tmp_path, {0: 1}) == 1 and json.loads((tmp_path / "result.json").read_text())["message"] == lost
    write(tmp_path, 0, "failed", "ValueError: a mistake", 50)
    assert ranks.settle(tmp_path, {0: 1, 1: -signal.SIGTERM}) == 1
    assert "a mistake" in read_json(tmp_path / "result.json", Result).message


def test_a_batch_that_cannot_be_shared_is_refused(trainee, tmp_path):
    check_shares(8, 2, 2)
    with pytest.raises(UserError, match="8 rows cannot be shared equally by 3 GPUs"):
        check_shares(8, 3, 1)
    with pytest.raises(UserError, match="8 rows cannot be shared equally by 2 GPUs in 8 micro-batches"):
        check_shares(8, 2, 8)
    with pytest.raises(UserError, match="trained by 2 processes"):
        train.run(msgspec.structs.replace(trainee.trial(), ranks=2), tmp_path / "alone")


def test_each_rank_takes_its_rows_and_its_batches():
    batch, parts = list(range(12)), [ranks.Ranks(rank, 3) for rank in range(3)]
    assert [part.rows(batch) for part in parts] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert sorted(itertools.chain(*(part.share(batch[:5]) for part in parts))) == [0, 1, 2, 3, 4]
    assert parts[2].device("cuda") == "cuda:2" and ranks.Ranks().device("cuda") == "cuda"
