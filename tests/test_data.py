import numpy as np
import pytest

from elmanctl import data
from elmanctl.data import Source, chain, file_hash, locate
from elmanctl.errors import UserError


@pytest.fixture
def path(tmp_path, monkeypatch):
    """A file in which each aligned group of 4 bytes is its own position, in the current folder."""
    monkeypatch.chdir(tmp_path)
    found = tmp_path / "text.bin"
    found.write_bytes(np.arange(10_000, dtype=np.uint32).tobytes())
    return found


def test_a_row_depends_on_seed_step_and_row_only(path):
    source = Source.open(path, 8, 32)
    batch = source.batch(42, 7, 8, 32)
    assert batch.shape == (8, 33) and batch.dtype == np.uint8
    assert np.array_equal(batch, Source.open(path, 8, 32).batch(42, 7, 8, 32))
    assert np.array_equal(batch[:3], source.batch(42, 7, 3, 32))
    for other in (source.batch(43, 7, 8, 32), source.batch(42, 8, 8, 32)):
        assert not any(np.array_equal(a, b) for a, b in zip(batch, other, strict=True))
    assert len({row.tobytes() for row in batch}) == 8
    assert len({source.batch(42, step, 8, 32).tobytes() for step in range(50)}) == 50


def test_the_order_of_the_data_is_that_of_every_earlier_run(path):
    """Losses of two runs are compared step by step, so another order would make old records worthless."""
    positions = Source(path, np.arange(40_000), 39_600)
    assert positions.batch(42, 0, 4, 16)[:, 0].tolist() == [20142, 24830, 21507, 89]
    assert positions.batch(42, 1, 4, 16)[:, 0].tolist() == [33982, 25937, 33569, 29092]


def test_training_reaches_the_whole_training_part_and_never_the_tail(path):
    source = Source.open(path, 4, 16)
    assert source.training_bytes == 39_600
    starts = []
    positions = Source(path, np.arange(40_000), source.training_bytes)
    for step in range(400):
        batch = positions.batch(1, step, 4, 16)
        starts += batch[:, 0].tolist()
        assert batch.max() < 39_600
    assert min(starts) < 400 and max(starts) > 39_600 - 17 - 400
    assert np.histogram(starts, bins=8, range=(0, 39_600))[0].min() > 120  # 200 expected, standard deviation 13


def test_held_out_windows_are_fixed_disjoint_and_in_the_tail(path):
    positions = Source(path, np.arange(40_000), 39_600)
    batches = positions.heldout(4, 16, 5)
    assert [b.shape for b in batches] == [(4, 17)] * 5
    rows = np.concatenate(batches)
    assert rows.min() == 39_600 and rows.max() == 39_999
    assert len(np.unique(rows)) == rows.size
    assert positions.heldout(4, 16, 100)[0].shape == (4, 17)
    assert sum(map(len, positions.heldout(4, 16, 100))) == 20  # 23 fit, whole batches are kept
    assert [len(b) for b in positions.heldout(30, 16, 1)] == [23]
    assert positions.heldout(4, 16, 0) == []


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda p: None, "does not exist"),
        (lambda p: p.write_bytes(b""), "is empty"),
        (lambda p: p.mkdir(), "is a folder"),
        (lambda p: p.write_bytes(b"x" * 2000), "has 2,000 bytes; batches of 4 x 33 bytes"),
    ],
)
def test_a_file_that_cannot_serve_says_what_to_do(tmp_path, make, text):
    make(tmp_path / "d.txt")
    with pytest.raises(UserError, match=text) as raised:
        Source.open(tmp_path / "d.txt", 4, 32)
    assert "elmanctl data make" in str(raised.value)


def test_the_size_named_in_the_message_is_enough(tmp_path):
    file = tmp_path / "d.txt"
    file.write_bytes(b"x" * (100 * 33 * 101 // 100))
    assert Source.open(file, 4, 32).heldout(4, 32, 1)
    file.write_bytes(b"x" * (200 * 33 * 101 // 100))
    assert Source.open(file, 200, 32)


def test_only_the_default_falls_back_to_the_embedded_corpus_and_says_so(path, capsys):
    (path.parent / "data").mkdir()
    (path.parent / "data/corpus.txt").write_bytes(path.read_bytes())
    assert locate("data/pile.txt") == data.EMBEDDED
    assert "training on the embedded corpus data/corpus.txt" in capsys.readouterr().err
    assert Source.open("data/pile.txt", 4, 16).path == data.EMBEDDED
    with pytest.raises(UserError, match=r"other.txt does not exist"):
        locate("data/other.txt")
    (path.parent / "data/pile.txt").write_bytes(b"x")
    assert locate("data/pile.txt") == data.DEFAULT


def test_hash_of_a_small_file_covers_every_byte_and_of_a_large_one_size_and_samples(path, monkeypatch):
    whole = file_hash(path)
    monkeypatch.setattr(data, "WHOLE", 1000)
    monkeypatch.setattr(data, "SAMPLE", 16)
    sampled = file_hash(path)
    assert whole.startswith("blake2b:") and sampled.startswith("blake2b-sampled:")
    content = bytearray(path.read_bytes())
    path.write_bytes(content + b"x")
    assert file_hash(path) != sampled
    content[-1] ^= 1
    path.write_bytes(content)
    assert file_hash(path) != sampled
    monkeypatch.undo()
    assert file_hash(path) != whole


def test_rolling_hash_depends_on_every_batch_and_their_order():
    a, b = np.zeros((2, 3), np.uint8), np.ones((2, 3), np.uint8)
    both = chain(chain("", a), b)
    assert both == chain(chain("", a), b) != chain(chain("", b), a)
    assert chain(chain("", a), a) != chain("", a)
