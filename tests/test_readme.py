"""What README.md shows of the tool's output is what the tool prints, as far as that is the same everywhere."""

import re
from pathlib import Path

import pytest

from elmanctl.commands import list as listing
from elmanctl.plugins.registry import registry
from elmanctl.verify import receipt
from elmanctl.verify.plan import Plan, Request

README = Path(__file__).parent.parent / "README.md"


def shown(command: str) -> list[str]:
    """Return the lines below a command in the README."""
    text = README.read_text().split(f"    $ {command}", 1)[1].split("\n", 1)[1]
    return [line[4:].rstrip() for line in re.split(r"\n\n|\n    \$", text)[0].splitlines()]


@pytest.fixture
def kept():
    """Return E42's receipt for the host, whatever was changed since."""
    return receipt.held(registry().resolve("E42"), ("host",))["host"].receipt


def test_the_list():
    title, *lines, more = shown("elmanctl list")
    assert title.split() == ["name", "kind", "source", "receipt", "summary"] and more == "..." and len(lines) == 3
    for line in lines:
        name, kind, source, receipts, summary, *needs = re.split(" {2,}", line)
        variant = registry().variants()[name]
        own = receipt.held(registry().resolve(name)).items()
        figures = [f"{target} green {h.receipt.worst:.1f}x" for target, h in sorted(own)]
        entry = listing.row(registry(), registry().resolve(name))
        assert (kind, source, summary) == (entry["kind"], "installed", variant.summary)
        assert receipts == (", ".join(figures) if variant.has_kernel else "library")
        assert needs == ([f"needs {', '.join(variant.requires)}: {variant.install}"] if variant.requires else [])


def test_a_run_of_verify(kept):
    first, title, *rows, more, last = shown("elmanctl verify E42")
    assert first == "E42 kernel, host" and title.split("  ")[0] == "tensor" and more == "..."
    worst = sorted(kept.tensors.items(), key=lambda item: -item[1])[: len(rows)]
    assert [row.split()[:2] for row in rows] == [[tensor, f"{ratio:.3g}"] for tensor, ratio in worst]
    case, count = max(kept.results, key=kept.results.get), len(Plan(Request(registry().resolve("E42"), "cpu")).tasks())
    said = f"E42 on host: {count} of {count} checks passed; worst {kept.worst:.3g} of the limit ({kept.worst_tensor}, {case}); "
    assert last.startswith(said) and last.endswith("seed 0. Receipt: ...")
    assert count == kept.cases - len(kept.sanitized) and case in rows[0]


def test_a_search_for_a_width(project):
    printed = project.run("dims", "E75h4n32", "--params", "100M").out.splitlines()
    assert shown("elmanctl dims E75h4n32 --params 100M") == [line.rstrip() for line in printed]
