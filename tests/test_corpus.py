import gzip
import os
from pathlib import Path

import numpy as np
import pytest

from elmanctl import corpus
from elmanctl.data import SEPARATOR, file_hash
from elmanctl.errors import UserError
from elmanctl.files import read_json


@pytest.fixture
def folders(tmp_path):
    """Two sources: a library of Python files and documentation, some of it compressed, doubled or no text."""
    library, docs = tmp_path / "library", tmp_path / "docs"
    (library / "sub" / "__pycache__").mkdir(parents=True)
    docs.mkdir()
    for i in range(40):
        (library / "sub" / f"m{i}.py").write_text(f"# module {i}\n" + f"x = {i}\n" * 50)
    (library / "double.py").write_bytes((library / "sub" / "m3.py").read_bytes())
    (library / "tiny.py").write_text("pass\n")
    (library / "data.bin").write_bytes(b"binary" * 100)
    (library / "sub" / "__pycache__" / "m.py").write_text("cached = True\n" * 50)
    (library / "latin.py").write_bytes("x = 'é'\n".encode("latin-1") * 50)
    (library / "nul.py").write_bytes(b"text\0" * 50)
    (docs / "changelog.gz").write_bytes(gzip.compress(b"changed a thing\n" * 30))
    (docs / "damaged.gz").write_bytes(gzip.compress(b"lost " * 300)[:20])
    (docs / "link").symlink_to(docs / "changelog.gz")
    return {"library": library, "documentation": docs}


def parts(path):
    content = path.read_bytes()
    assert content[-1] == SEPARATOR
    return content[:-1].split(bytes([SEPARATOR]))


def test_holds_each_text_once_and_nothing_else(folders, tmp_path):
    manifest = corpus.make(tmp_path / "out" / "c.txt", 10**6, folders, smallest=1000)
    found = parts(tmp_path / "out" / "c.txt")
    wanted = {(folders["library"] / "sub" / f"m{i}.py").read_bytes() for i in range(40)} | {b"changed a thing\n" * 30}
    assert set(found) == wanted and len(found) == 41
    assert manifest.documents == 41 and manifest.bytes == (tmp_path / "out" / "c.txt").stat().st_size
    assert manifest.sources["documentation"] == {"documents": 1, "bytes": 481}
    assert sum(s["bytes"] for s in manifest.sources.values()) == manifest.bytes
    assert manifest.hash == file_hash(tmp_path / "out" / "c.txt")
    assert read_json(tmp_path / "out" / "c.json", corpus.Manifest) == manifest


def test_order_is_fixed_and_mixed(folders, tmp_path):
    first = corpus.make(tmp_path / "a.txt", 10**6, folders, smallest=1000)
    second = corpus.make(tmp_path / "b.txt", 10**6, dict(reversed(folders.items())), smallest=1000)
    assert (tmp_path / "a.txt").read_bytes() == (tmp_path / "b.txt").read_bytes() and first.hash == second.hash
    numbers = [int(text.split()[2]) for text in parts(tmp_path / "a.txt") if text.startswith(b"# module")]
    assert numbers != sorted(numbers)


def test_a_smaller_corpus_is_the_beginning_of_a_larger_one(folders, tmp_path):
    corpus.make(tmp_path / "large.txt", 10**6, folders, smallest=1000)
    manifest = corpus.make(tmp_path / "small.txt", 3000, folders, smallest=1000)
    small = (tmp_path / "small.txt").read_bytes()
    assert 3000 <= len(small) < 3600 and manifest.asked == 3000
    assert (tmp_path / "large.txt").read_bytes().startswith(small)


def test_too_little_text_leaves_the_old_corpus_and_says_how_much_there_is(folders, tmp_path):
    out = tmp_path / "c.txt"
    corpus.make(out, 3000, folders, smallest=1000)
    old, manifest = out.read_bytes(), corpus.manifest_path(out).read_bytes()
    with pytest.raises(UserError, match=r"Only [0-9,]+ bytes of text were found"):
        corpus.make(out, 10**6, folders, smallest=500_000)
    with pytest.raises(UserError, match="too short to train on"):
        corpus.make(out, 10**6, folders, smallest=10**7)
    assert (out.read_bytes(), corpus.manifest_path(out).read_bytes()) == (old, manifest)


def test_nothing_but_a_corpus_of_ours_is_replaced(folders, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("tiny.yaml", "mine.json", "theirs.txt", "theirs.json"):
        (tmp_path / name).write_text("{}")
    corpus.make(Path("ours.txt"), 3000, folders, smallest=1000)
    corpus.make(Path("changed.txt"), 3000, folders, smallest=1000)
    Path("changed.txt").write_text("an addition")
    Path("ours.html").write_text("a page")
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.iterdir()}
    for out, text in (
        ("tiny.yaml", "tiny.yaml exists and tiny.json, which a corpus has beside it, does not"),
        ("mine.txt", "mine.json exists and is no corpus's manifest"),
        ("mine.json", "cannot end in .json"),
        ("theirs.txt", "theirs.json exists and is no corpus's manifest"),
        ("changed.txt", "changed.txt is not the corpus that changed.json describes"),
        ("ours.html", "ours.html is not the corpus that ours.json describes"),
        ("ours.md", "ours.json describes ours.txt"),
        (".", "is a folder"),
        ("/", "is a folder"),
    ):
        with pytest.raises(UserError, match=text):
            corpus.make(Path(out), 3000, folders, smallest=1000)
    assert {path: path.is_file() and path.read_bytes() for path in tmp_path.iterdir()} == before
    assert corpus.make(Path("ours.txt"), 4000, folders, smallest=1000).bytes == Path("ours.txt").stat().st_size > 4000


def test_a_kill_before_the_corpus_is_in_place_leaves_nothing_in_the_way(folders, tmp_path, monkeypatch):
    def kill(source, target):
        if Path(target).name == "c.txt":
            raise KeyboardInterrupt
        return replace(source, target)

    replace = os.replace
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(os, "replace", kill)
        corpus.make(tmp_path / "c.txt", 3000, folders, smallest=1000)
    made = corpus.make(tmp_path / "c.txt", 3000, folders, smallest=1000)
    assert made.hash == file_hash(tmp_path / "c.txt") and len(list(tmp_path.glob("c.*"))) == 2


def test_this_machine_has_a_library_to_draw_from():
    sources = {source for _, source, _ in corpus.candidates({"library": corpus.roots()["library"] / "json"})}
    assert sources == {"library"}


def summary(tmp_path, content):
    (tmp_path / "d").write_bytes(content)
    return corpus.check(tmp_path / "d", np.frombuffer(content, np.uint8))


def test_check_counts_bytes_documents_and_entropy(tmp_path):
    found = summary(tmp_path, b"aabb\x1eaab\xffb")
    assert (found["bytes"], found["documents"], found["distinct_bytes"]) == (10, 2, 4)
    assert found["printable_share"] == pytest.approx(0.8) and found["high_share"] == pytest.approx(0.1)
    assert list(found["most_frequent"])[:2] == ["a", "b"] and found["zero_runs"] == 0
    assert {byte: n for byte, n in enumerate(found["histogram"]) if n} == {97: 4, 98: 4, 0x1E: 1, 0xFF: 1}
    assert summary(tmp_path, bytes(range(256)))["entropy_bits"] == pytest.approx(8)
    assert summary(tmp_path, b"one\x1etwo\x1e")["documents"] == 2
    assert f"{summary(tmp_path, b'aaaa')['entropy_bits']:.3f}" == "0.000"


def test_check_finds_zero_runs_also_across_its_blocks(tmp_path):
    found = summary(tmp_path, b"\0" * 9 + b"ab" + b"\0" * 7 + b"c" + b"\0" * 8)
    assert (found["zero_bytes"], found["zero_runs"], found["longest_zero_run"]) == (24, 2, 9)
    content = bytearray(b"x" * (2 * (1 << 24) + 10))
    content[(1 << 24) - 5 : (1 << 24) + 5] = bytes(10)
    content[2 * (1 << 24) - 4 : 2 * (1 << 24)] = bytes(4)
    found = summary(tmp_path, bytes(content))
    assert (found["zero_bytes"], found["zero_runs"], found["longest_zero_run"]) == (14, 1, 10)
