"""The documentation against the code and the records: hooks with their exact arguments, the table of the matrix states' times."""

import inspect
import re
from pathlib import Path

import msgspec

from elmanctl.kernelbench import show
from elmanctl.plugins import hookspecs
from elmanctl.plugins.registry import registry

DOCS = Path(__file__).parent.parent / "docs"
PAGE = DOCS / "performance.md"
MATRIX = "results/2026-11-23-kernels_matrix/kernels.json"


def test_hooks_page_lists_every_hook_with_its_arguments():
    live = {
        f"{name}({', '.join(inspect.signature(hook).parameters)})"
        for name, hook in inspect.getmembers(hookspecs, inspect.isfunction)
        if name.startswith("elmanctl_")
    }
    assert set(re.findall(r"^\| `(elmanctl_\w+\([^)]*\))`", (DOCS / "hooks.md").read_text(), re.MULTILINE)) == live


def test_the_table_of_matrix_states_is_the_record_and_within_its_aim():
    rows = re.findall(
        r"^\| (E\S+) \| (\d+ of \d+) \| (\S+) / (\S+) \| (\S+) \| (\S*) ?\|$", PAGE.read_text(), re.MULTILINE
    )
    record = msgspec.json.decode((DOCS / MATRIX).read_bytes(), type=show.Record)
    measured = {line[0]: (line[3], line[4], line[5], line[-2], line[-1]) for line in show.beside(record)}
    specs = [registry().resolve(name) for name, *_ in rows]
    for spec, (name, *figures, times) in zip(specs, rows, strict=True):
        *same, ratio = measured[name]
        assert times == ratio or (times, spec.variant.name, ratio) == ("", "E88", "1.00"), name
        assert figures == same, name
        assert float(times or 1) <= 1.5, name
    matrix = {name for name in registry().variants() if re.fullmatch(r"E(7\d|88)", name)}
    assert {spec.variant.name for spec in specs} == matrix != set()
