import json
import os
from pathlib import Path

import pytest

from elmanctl import corpus


@pytest.fixture
def library(project, monkeypatch):
    """A small machine: 60 documents of 1000 bytes, and a lower bound that they meet."""
    for i in range(60):
        project.write(f"library/m{i}.py", (f"# {i:02d}\n" + "pass\n" * 200)[:1000])
    monkeypatch.setattr(corpus, "roots", lambda: {"library": project.path / "library"})
    monkeypatch.setattr(corpus.make, "__defaults__", (None, 10_000))
    return project


def test_make_writes_the_corpus_and_its_manifest(library):
    ran = library.run("data", "make", "--size", "20K")
    assert ran.code == 0, ran.err
    assert "library" in ran.out and "20,020" in ran.out and ran.err == ""
    manifest = json.loads(Path("data/corpus.json").read_text())
    assert manifest["bytes"] == Path("data/corpus.txt").stat().st_size == 20_020 and manifest["hash"] in ran.out
    again = library.run("data", "make", "--size", "20K", "--out", "other.txt", "--json")
    assert json.loads(again.out) == {"path": "other.txt", **manifest}


def test_make_says_how_much_it_found_where_there_is_less(library):
    ran = library.run("data", "make", "--size", "1M")
    assert ran.code == 0 and "Found 60,060 of the 1,000,000 bytes asked for" in ran.err


def test_make_replaces_its_own_corpus_and_no_other_file(library):
    assert [library.run("data", "make", "--size", size).code for size in ("20K", "30K")] == [0, 0]
    library.write("suite.yaml", "rows: []")
    for out, text in (("suite.yaml", "was not written by this command"), (".", "is a folder")):
        ran = library.run("data", "make", "--size", "20K", "--out", out)
        assert ran.code == 2 and text in ran.err and "Traceback" not in ran.err
    assert Path("suite.yaml").read_text() == "rows: []" and not Path("suite.json").exists()


@pytest.mark.parametrize(("size", "text"), [("100Q", "unknown suffix Q"), ("5K", "too short to train on")])
def test_make_refuses_a_bad_size(library, size, text):
    ran = library.run("data", "make", "--size", size)
    assert ran.code == 2 and text in ran.err and not Path("data").exists()


def test_check_describes_a_file(project):
    project.write("d.txt", "ab\x1eab\x1e")
    ran = project.run("data", "check", "d.txt", "--json")
    found = json.loads(ran.out)
    assert ran.code == 0 and (found["bytes"], found["documents"], found["distinct_bytes"]) == (6, 2, 3)
    ran = project.run("data", "check", "d.txt")
    assert ran.code == 0 and found["hash"] in ran.out and "2 (separated by 0x1e)" in ran.out


def test_check_fails_on_padding(project):
    Path("d.txt").write_bytes(b"text" + bytes(100))
    ran = project.run("data", "check", "d.txt")
    assert ran.code == 1 and "1 run of zero bytes, the longest of 100" in ran.err and "100, 1 run of" in ran.out


def test_check_refuses_what_is_no_data_file(project):
    Path("empty").write_bytes(b"")
    os.mkfifo("pipe")
    nothing_to_map = ("/dev/null", "no regular file"), ("pipe", "no regular file")
    for name, text in (("none", "does not exist"), (".", "is a folder"), ("empty", "is empty"), *nothing_to_map):
        ran = project.run("data", "check", name)
        assert ran.code == 2 and text in ran.err
