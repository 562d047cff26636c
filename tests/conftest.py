"""Fixtures for all tests: `project`, a folder in which the command line runs; `trainee`, one that has something to train."""

import os
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from elmanctl import cli
from elmanctl.plugins import discovery
from elmanctl.plugins.registry import registry
from elmanctl.records import Budget, Training, Trial

FAKE = """
from dataclasses import dataclass

from elmanctl.variant import Variant, option, tagged


@dataclass(frozen=True)
class Config:
    n_heads: int = tagged("h", 8, "heads")
    n_state: int = tagged("n", 32, "state")
    use_gate: bool = option(False, "gate the output")


variant = Variant(package=__name__, name="{name}", summary="a fake of the tests", config=Config{more})
"""


@dataclass(frozen=True)
class Ran:
    """How a command line ended: exit code, and what it wrote on stdout and stderr."""

    code: int
    out: str
    err: str


class Project:
    """A project folder: the current directory of the test, with its own variants/ if it has any."""

    def __init__(self, path: Path, capsys):
        self.path, self._capsys = path, capsys

    def write(self, name: str, text: str) -> Path:
        """Write a file of the project and return its path."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return path

    def fake(self, folder: str, name: str, more: str = "", under: str = "variants") -> Path:
        """Write a variant without layer or kernel, with tags h and n and the option use_gate; return its folder."""
        return self.write(f"{under}/{folder}/__init__.py", FAKE.format(name=name, more=more and f", {more}")).parent

    def run(self, *arguments: object) -> Ran:
        """Run a command line in this process, with a registry of its own."""
        registry.cache_clear()
        self._capsys.readouterr()
        code = cli.run([str(a) for a in arguments])
        return Ran(code, *self._capsys.readouterr())

    def start(self, *arguments: object, **environment: str) -> Ran:
        """Run a command line in a process of its own."""
        call = [sys.executable, "-c", "from elmanctl.cli import main; main()", *map(str, arguments)]
        ran = subprocess.run(
            call, cwd=self.path, env=os.environ | environment, capture_output=True, text=True, timeout=250
        )
        return Ran(ran.returncode, ran.stdout, ran.stderr)


@pytest.fixture
def project(tmp_path, monkeypatch, capsys):
    """Return a Project in a fresh folder. Environment, current directory and loaded fakes are as before afterwards."""
    root = tmp_path / "project"
    root.mkdir()
    (root / "pyproject.toml").write_text("")
    prefix = discovery.NAMESPACE + "."
    before = {name: module for name, module in sys.modules.items() if name.startswith(prefix)}
    with mock.patch.dict(os.environ):
        for name in [name for name in os.environ if name.startswith("ELMANCTL_") and name != "ELMANCTL_CACHE"]:
            del os.environ[name]
        monkeypatch.chdir(root)
        registry.cache_clear()
        yield Project(root, capsys)
    registry.cache_clear()
    for name in [name for name in sys.modules if name.startswith(prefix)]:
        del sys.modules[name]
    # The very modules of before: other tests hold their classes.
    sys.modules.update(before)
    for name, module in before.items():
        if name.count(".") == 1:
            setattr(sys.modules[discovery.NAMESPACE], name.removeprefix(prefix), module)
