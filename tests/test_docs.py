"""The documentation against the code and the records: hooks with their exact arguments, modules, the tables of all variants' times."""

import inspect
import json
import re
from pathlib import Path

import msgspec

from elmanctl import shells, spectral
from elmanctl.kernelbench import show
from elmanctl.plugins import hookspecs
from elmanctl.plugins.registry import registry

DOCS = Path(__file__).parent.parent / "docs"
PAGE = DOCS / "performance.md"


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
    newest = max((DOCS / "results").glob("*-kernels_matrix"))
    record = msgspec.json.decode((newest / "kernels.json").read_bytes(), type=show.Record)
    measured = {line[0]: (line[3], line[4], line[5], line[-2], line[-1]) for line in show.beside(record)}
    specs = [registry().resolve(name) for name, *_ in rows]
    for spec, (name, *figures, times) in zip(specs, rows, strict=True):
        *same, ratio = measured[name]
        assert times == ratio or (times, spec.variant.name, ratio) == ("", "E88", "1.00"), name
        assert figures == same, name
        assert float(times or 1) <= 1.5, name
    matrix = {name for name in registry().variants() if re.fullmatch(r"E(7\d|88)", name)}
    assert {spec.variant.name for spec in specs} == matrix != set()


def test_kernels_page_names_every_public_module_around_a_vector_cell():
    page = (DOCS / "kernels.md").read_text()
    for module in (shells, spectral):
        assert f"`elmanctl/{module.__name__.rpartition('.')[2]}.py`" in page
        own = [name for name, made in inspect.getmembers(module, inspect.isclass) if made.__module__ == module.__name__]
        assert own and all(f"| `{name}` |" in page for name in own), own


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def test_the_table_of_all_vector_variants_is_the_newest_record_of_them():
    """docs/performance.md has one table of all, of one run; the record's own has more columns and no width."""
    folder = max((DOCS / "results").glob("*-kernels_vector"))
    every = json.loads((folder / "kernels.json").read_text())["rows"]
    rows = [row for row in every if row["both"]]
    assert all(row["note"].endswith("one is timed at a time.") for row in every if row not in rows)
    lines = [_cells(line) for line in (folder / "kernels.md").read_text().splitlines() if line.startswith("| ")]
    at = {name: lines[0].index(name) for name in lines[0]}
    wanted = []
    for row, line in zip(rows, lines[2:], strict=False):
        assert row["model"] == line[0]
        step, both, products, product, exchanges, exchange, copy = (
            line[at[name]]
            for name in (
                "us/step", "us/step with backward", "products", "a product", "exchanges", "an exchange", "of the copy rate"
            )
        )  # fmt: skip
        dense = [f"{products}, {exchanges}", f"{product}, {exchange}"] if products else ["", ""]
        wanted.append([line[0], str(row["sizes"]["D"]), f"{step} / {both}", *dense, copy])
    page = PAGE.read_text()
    assert f"results/{folder.name}/kernels.md" in page
    _, _, table = page.partition("\n| variant | width |")
    body = table.partition("\n\n")[0].splitlines()[2:]
    shown = [_cells(line) for line in body]
    assert shown == wanted, "write the newest record's rows:\n" + "\n".join(f"| {' | '.join(row)} |" for row in wanted)
