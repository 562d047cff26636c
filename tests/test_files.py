import os

import pytest

from elmanctl.errors import UserError
from elmanctl.files import atomic, read_json, write_json
from elmanctl.records import Budget, Result, Training, Trial


def test_a_record_reads_back_as_it_was_written(tmp_path):
    trial = Trial(label="a", model="b", dim=1, depth=2, params=3, budget=Budget(steps=5), training=Training(lr=1e-5))
    write_json(tmp_path / "deep" / "t.json", trial)
    assert read_json(tmp_path / "deep" / "t.json", Trial) == trial
    with pytest.raises(UserError, match="is not a Result record"):
        read_json(tmp_path / "deep" / "t.json", Result)
    with pytest.raises(UserError, match="does not exist"):
        read_json(tmp_path / "other.json", Trial)


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "r.json"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic(path) as file:
        file.write("half")
        raise RuntimeError
    with pytest.raises(UserError, match="No space left"), atomic(path) as file:
        file.write("half")
        raise OSError(28, "No space left on device")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_who_may_read_a_record_is_left_to_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_json(tmp_path / "r.json", {})
    finally:
        os.umask(before)
    assert (tmp_path / "r.json").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\xff\xfe\x00", "is not a Result record"),
        (b"", "is not a Result record"),
        (b"[" * 100_000, "is not a Result record"),
        (b'{"schema": 99, "status": {"of": "later"}}', r"newer elmanctl \(schema 99; this one reads 1\)"),
        (None, "cannot be read: Is a directory"),
    ],
)
def test_a_record_that_cannot_be_read_says_why(tmp_path, content, says):
    path = tmp_path / "result.json"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(UserError, match=says):
        read_json(path, Result)
