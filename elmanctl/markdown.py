"""Tables in Markdown, for every record that is shown as a page."""

from collections.abc import Iterable, Sequence


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[str] = ()) -> list[str]:
    """Return a table's lines; columns of `right` are aligned right. A cell may hold any text: what would end it is escaped."""
    rules = ["---:" if column in right else "---" for column in columns]
    return [_line(cells) for cells in (columns, rules, *rows)]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in cells) + " |"
