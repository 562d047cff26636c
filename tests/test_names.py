"""Which names a row and a run may have."""

import pytest

from elmanctl import names
from elmanctl.errors import UserError


@pytest.mark.parametrize(
    ("label", "says"),
    [
        *((name, "elmanctl keeps that name for something of its own") for name in sorted(names.RESERVED)),
        ("..", "(..): nothing but dots and underscores is left of it"),
        ("", "nothing but dots and underscores"),
        ("é", "(é): nothing but dots and underscores is left of it; A-Z a-z 0-9"),
        (".x", "a dot at the beginning hides a folder"),
        ("x" * 300, f"({'x' * 100}...): it has 300 bytes and may have 100"),
    ],
)
def test_a_name_whose_folder_cannot_be_is_refused(label, says):
    assert says in names.unusable(label) and "another label" in names.unusable(label)
    if label.isascii():
        with pytest.raises(UserError, match="--run"):
            names.check_run(label)


@pytest.mark.parametrize("label", ["gru", "a b", "E88h8n32:gate=true", "run.json 2", "x" * 100, "+", "läuft"])
def test_other_names_are_free(label):
    assert names.unusable(label) == ""
    names.check_run(label)


def test_two_rows_of_one_folder_are_told_what_is_the_matter():
    assert names.unusable("a", "a").startswith("the name a is given twice.")
    assert names.unusable("bö", "bé").startswith("bé and bö would have one folder, b_; A-Z a-z 0-9 . _ + - are kept")
    names.check_run(None)
    with pytest.raises(UserError, match="not a plain folder name"):
        names.check_run("a/b")
