"""What reaches stdout and stderr is the text that was given."""

import json

from elmanctl import console

TEXT = "[red]x[/red] [/a/path] X7:use_gate=true :smile:"


def test_cells_and_notes_are_plain_text(capsys):
    console.print_table(["a [b]", "n"], [[TEXT, 12], [None, 3]], title="[t]", right=("n",))
    console.note(f"{TEXT} " * 10)
    said = capsys.readouterr()
    assert TEXT in said.out and "a [b]" in said.out and "None" not in said.out
    assert said.err.strip() == f"{TEXT} " * 9 + TEXT, "one line, however long"


def test_json_is_one_document(capsys):
    console.print_json({"a": [1, None, "é"]})
    assert json.loads(capsys.readouterr().out) == {"a": [1, None, "é"]}
