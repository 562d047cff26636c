"""Edits of one line of kernel code, by general operators: what a hand slips on."""

import re
from dataclasses import dataclass
from pathlib import Path

from elmanctl.verify.prove.operators import OPERATORS

SKIPPED = re.compile(
    r"^\s*(#|//|template\b[^{]*$|using\b|static_assert|static constexpr|constexpr|enum\b|struct\b|namespace\b|inline constexpr)"
)
SIGNATURE = re.compile(r"\b(ELMAN_FN|ELMAN_BOTH|ELMAN_KERNEL|ELMAN_FORWARD|ELMAN_BACKWARD|template|Status)\b")


@dataclass(frozen=True)
class Edit:
    """One edit: file, line from 1, operator's name, and the line before and after."""

    file: Path
    line: int
    operator: str
    old: str
    new: str

    def text(self) -> str:
        return f"{self.file.name}:{self.line} {self.operator}: {self.old.strip()}  ->  {self.new.strip()}"


def edits(file: Path) -> list[Edit]:
    """Return every edit of a file, in the order of its lines."""
    found: dict[tuple, Edit] = {}
    function = False
    for number, line in enumerate(file.read_text().splitlines(), 1):
        code = line.split("//")[0].rstrip()
        begin = 0
        if SIGNATURE.search(code):
            function = not code.endswith(("}", "};"))
            begin = code.find("{") + 1 if "{" in code else len(code)
        if SKIPPED.match(code) or not code.strip():
            continue
        if not function and begin == 0:
            continue
        for operator, apply in OPERATORS.items():
            for new in apply(code, begin):
                if new != code:
                    found.setdefault((number, new), Edit(file, number, operator, code, new))
        function = function and code != "}"
    return list(found.values())
