"""Edits of one line of kernel code, by general operators: what a hand slips on.

An edit in a function marked ELMAN_DIVISION only chooses another division of the work, which is no mistake: `division` names the function.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from elmanctl.verify.prove.operators import OPERATORS

SKIPPED = re.compile(
    r"^\s*(#|//|template\b[^{]*$|using\b|static_assert|static constexpr|constexpr|enum\b|struct\b|namespace\b|inline constexpr)"
)
SIGNATURE = re.compile(
    r"\b(ELMAN_FN|ELMAN_BOTH|ELMAN_DIVISION|ELMAN_KERNEL|ELMAN_FORWARD|ELMAN_BACKWARD|template|Status)\b"
)
DIVISION = re.compile(r"^(\s*)(?:template <.*> )?(?:static )?ELMAN_DIVISION\b.*?(\w+)\(")


@dataclass(frozen=True)
class Edit:
    """One edit: file, line from 1, operator's name, the line before and after, and the division that it is in, if any."""

    file: Path
    line: int
    operator: str
    old: str
    new: str
    division: str = ""

    def text(self) -> str:
        return f"{self.file.name}:{self.line} {self.operator}: {self.old.strip()}  ->  {self.new.strip()}"


def edits(file: Path) -> list[Edit]:
    """Return every edit of a file, in the order of its lines."""
    found: dict[tuple, Edit] = {}
    function, division, end = False, "", ""
    for number, line in enumerate(file.read_text().splitlines(), 1):
        code = line.split("//")[0].rstrip()
        begin = 0
        if SIGNATURE.search(code):
            function = not code.endswith(("}", "};"))
            begin = code.find("{") + 1 if "{" in code else len(code)
            marked = DIVISION.match(code)
            division, end = (marked[2], f"{marked[1]}}}") if marked else ("", "")
        if SKIPPED.match(code) or not code.strip():
            continue
        if not function and begin == 0:
            continue
        for operator, apply in OPERATORS.items():
            for new in apply(code, begin):
                if new != code:
                    found.setdefault((number, new), Edit(file, number, operator, code, new, division))
        function = function and code != "}"
        if division and (code == end or not function):
            division = ""
    return list(found.values())
