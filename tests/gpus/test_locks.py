"""One lock for each GPU, held by the kernel for as long as a holder lives."""

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time

import pytest

from elmanctl.errors import UserError
from elmanctl.gpus import locks


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("ELMANCTL_LOCKS", str(tmp_path / "locks"))
    return tmp_path / "locks"


def until(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_lock_is_exclusive_and_says_who_holds_it():
    held = locks.acquire("GPU-0", "run r, row a")
    who = locks.holder("GPU-0")
    assert (who.pid, who.what) == (os.getpid(), "run r, row a") and "run r, row a" in str(who)
    assert locks.acquire("GPU-0", "another") is None
    assert locks.holder("GPU-0").what == "run r, row a"
    other = locks.acquire("GPU-1", "another")
    locks.release(held)
    assert locks.holder("GPU-0") is None and locks.holder("GPU-2") is None
    again = locks.acquire("GPU-0", "again")
    assert again is not None
    locks.release(again)
    locks.release(other)


@pytest.mark.parametrize("text", [b"", b"{", b'{"user":"\xff"}', b"[1]", b"\x00" * 5000])
def test_a_damaged_text_still_shows_that_somebody_holds_it(folder, text):
    held = locks.acquire("GPU-0", "x")
    (folder / "GPU-0.lock").write_bytes(text)
    assert str(locks.holder("GPU-0")).startswith("somebody, pid 0") and locks.acquire("GPU-0", "y") is None
    locks.release(held)


def test_the_kernel_frees_it_when_its_last_holder_is_killed():
    held = locks.acquire("GPU-0", "a trial")
    child = subprocess.Popen(["sleep", "60"], pass_fds=[held])
    locks.release(held)
    assert locks.holder("GPU-0") is not None and locks.acquire("GPU-0", "another") is None
    child.send_signal(signal.SIGKILL)
    child.wait()
    until(lambda: locks.holder("GPU-0") is None)


def test_others_may_use_the_files_whatever_the_umask(folder):
    before = os.umask(0o077)
    try:
        locks.release(locks.acquire("GPU-0", "x"))
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o1777
    assert stat.S_IMODE((folder / "GPU-0.lock").stat().st_mode) == 0o666


def test_a_lock_file_that_may_only_be_read_still_locks(folder):
    locks.release(locks.acquire("GPU-0", "x"))
    (folder / "GPU-0.lock").chmod(0o444)
    held = locks.acquire("GPU-0", "y")
    assert held is not None and locks.acquire("GPU-0", "z") is None
    locks.release(held)


def test_a_lock_file_removed_meanwhile_does_not_let_two_in(folder, monkeypatch):
    real = locks._open
    first = []

    def removed(path):
        file = real(path)
        if not first:
            first.append(file)
            path.unlink()
        return file

    monkeypatch.setattr(locks, "_open", removed)
    assert locks.acquire("GPU-0", "on a file that is gone") is None
    held = locks.acquire("GPU-0", "x")
    assert held is not None and locks.acquire("GPU-0", "y") is None
    locks.release(held)


def test_a_link_is_not_followed(folder, tmp_path):
    locks.folder()
    (folder / "GPU-0.lock").symlink_to(tmp_path / "victim")
    with pytest.raises(UserError, match="ELMANCTL_LOCKS"):
        locks.acquire("GPU-0", "x")
    assert not (tmp_path / "victim").exists()


def test_a_folder_that_cannot_be_made_is_refused_with_the_way_out(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ELMANCTL_LOCKS", str(tmp_path / "file" / "locks"))
    with pytest.raises(UserError, match="set ELMANCTL_LOCKS"):
        locks.acquire("GPU-0", "x")


def test_without_the_variable_all_users_of_a_machine_come_to_one_folder(monkeypatch):
    monkeypatch.delenv("ELMANCTL_LOCKS")
    call = [sys.executable, "-c", "from elmanctl.gpus import locks; print(locks.folder())"]
    places = {subprocess.run(call, capture_output=True, text=True, cwd=cwd).stdout for cwd in ("/", os.getcwd())}
    assert len(places) == 1 and places.pop().strip().endswith("/elmanctl")


def test_the_stay_off_list_holds_until_it_is_lifted():
    assert locks.off("GPU-0") == ""
    locks.stay_off("GPU-0", "for Ann")
    assert locks.off("GPU-0") == "for Ann"
    locks.stay_off("GPU-1", "")
    assert locks.off("GPU-1") == "no reason given"
    locks.allow("GPU-0")
    locks.allow("GPU-0")
    assert locks.off("GPU-0") == ""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can act as another user")
def test_another_user_honours_and_takes_the_same_locks(monkeypatch):
    place = tempfile.mkdtemp()
    os.chmod(place, 0o755)
    monkeypatch.setenv("ELMANCTL_LOCKS", f"{place}/locks")
    code = (
        "import fcntl, os, sys\n"
        "file = os.open(sys.argv[1], os.O_RDWR)\n"
        "try: fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
        "except BlockingIOError: sys.exit(7)\n"
    )
    call = ["/usr/bin/env", "python3", "-c", code, f"{place}/locks/GPU-0.lock"]
    try:
        held = locks.acquire("GPU-0", "root's")
        assert subprocess.run(call, user=65534, cwd="/").returncode == 7
        locks.release(held)
        assert subprocess.run(call, user=65534, cwd="/").returncode == 0
        os.chown(f"{place}/locks/GPU-0.lock", 65534, 65534)
        held = locks.acquire("GPU-0", "root's, on the file of another")
        assert held is not None
        locks.release(held)
    finally:
        shutil.rmtree(place)
