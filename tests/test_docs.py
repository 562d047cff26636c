"""The documentation against the code: every hook with its exact arguments is described, and only those."""

import inspect
import re
from pathlib import Path

from elmanctl.plugins import hookspecs

DOCS = Path(__file__).parent.parent / "docs"


def test_hooks_page_lists_every_hook_with_its_arguments():
    live = {
        f"{name}({', '.join(inspect.signature(hook).parameters)})"
        for name, hook in inspect.getmembers(hookspecs, inspect.isfunction)
        if name.startswith("elmanctl_")
    }
    assert set(re.findall(r"^\| `(elmanctl_\w+\([^)]*\))`", (DOCS / "hooks.md").read_text(), re.MULTILINE)) == live
