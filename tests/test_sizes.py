"""Sizes as people write them."""

import pytest

from elmanctl.errors import UserError
from elmanctl.sizes import parse_count, parse_share, short_bytes, short_count, short_share


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("100M", 100_000_000),
        ("1.27B", 1_270_000_000),
        ("500K", 500_000),
        ("98838400", 98_838_400),
        ("98_838_400", 98_838_400),
        ("0.1m", 100_000),
        (42, 42),
    ],
)
def test_counts(text, count):
    assert parse_count(text) == count


@pytest.mark.parametrize("text", ["100Q", "M", "", "1e8", "-5M", "0", "1.5", "nan", "12 apples", "1.2.3M"])
def test_what_is_no_count_is_refused_with_the_text_and_where_it_was_given(text):
    with pytest.raises(UserError) as error:
        parse_count(text, "--params")
    assert "--params" in str(error.value) and text in str(error.value)


def test_an_unknown_suffix_says_which_are_known():
    with pytest.raises(UserError, match="unknown suffix Q; K, M and B"):
        parse_count("100Q")


@pytest.mark.parametrize(("text", "share"), [("6%", 0.06), ("0.06", 0.06), (" 3 % ", 0.03), (0.5, 0.5), ("100%", 1.0)])
def test_shares(text, share):
    assert parse_share(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["six", "6", "-1%", "101%", "%"])
def test_what_is_no_share_is_refused(text):
    with pytest.raises(UserError, match="--tolerance"):
        parse_share(text)


def test_short_forms():
    assert [short_count(n) for n in (None, 7, 1500, 98_838_400, 1_270_000_000)] == ["", "7", "1.5K", "98.84M", "1.27B"]
    assert [short_bytes(n) for n in (None, 7, 2**20, 24 * 2**30)] == ["", "7 B", "1 MiB", "24 GiB"]
    assert short_share(0.06) == "6 %"
