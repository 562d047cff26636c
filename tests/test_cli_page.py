"""docs/cli.md is what docs/make_cli.py writes."""

import subprocess
import sys
from pathlib import Path

import pytest

from elmanctl.cli import VERBS

DOCS = Path(__file__).resolve().parent.parent / "docs"


def test_the_page_is_current_and_has_every_verb():
    if not (DOCS / "cli.md").exists():
        pytest.skip("docs/cli.md is not written yet: python docs/make_cli.py")
    ran = subprocess.run([sys.executable, DOCS / "make_cli.py", "--check"], capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")
    text = (DOCS / "cli.md").read_text()
    assert all(f"\n## elmanctl {verb}\n" in text for verb in VERBS)
