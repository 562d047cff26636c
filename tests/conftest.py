"""Fixtures for all tests: `project`, a folder in which the command line runs; `trainee`, one that has something to train; `box`, GPUs."""

import json
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

# The longest files, the longest first: none of them is left to one worker at the end, where the other has nothing more to do.
LONGEST = (
    "test_budgets", "test_races", "test_historic", "test_session", "test_verify", "test_tutorial", "test_every_write",
    "test_matrix_state", "test_slurm", "test_new_verifies", "test_pool", "test_prove", "test_calibration", "test_historic_families",
    "test_ranks", "test_sanitize", "test_preflight", "test_bench_again", "test_kill_and_resume", "test_divisions",
)  # fmt: skip

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


def pytest_collection_modifyitems(items):
    turn = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: turn.get(item.path.stem, len(turn)))


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
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)
        os.environ["ELMANCTL_LOCKS"] = str(tmp_path / "locks")
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


class Trainee:
    """A project with the Toy variant of tests/trainees, data/pile.txt, and tiny trials on it."""

    def __init__(self, project: Project):
        self.project, self.run, self.folder = project, project.run, project.path
        self.data = self.write_data(project.path / "data" / "pile.txt")

    @staticmethod
    def write_data(path: Path, size: int = 40_000) -> Path:
        """Write a file of easily predicted text."""
        words = [b"alpha ", b"beta ", b"gamma ", b"delta\n"]
        picks = np.random.default_rng(0).integers(0, len(words), size // 5)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"".join(words[i] for i in picks)[:size])
        return path

    def trial(self, model: str = "Toy", steps: int = 6, budget: Budget | None = None, **training) -> Trial:
        """Return a trial of two layers of width 16 that takes milliseconds a step."""
        settings = {"batch": 4, "chunk": 16, "lr": 3e-3, "eval_batches": 2, "data": "data/pile.txt"} | training
        return Trial(
            label=model,
            model=model,
            dim=16,
            depth=2,
            params=0,
            budget=budget or Budget(steps=steps),
            training=Training(**settings),
        )


@pytest.fixture
def trainee(project, monkeypatch):
    """Return a Trainee whose folder is the current one; torch runs on one thread, here and in child processes."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("ELMANCTL_VARIANTS", str(Path(__file__).parent / "trainees"))
    registry.cache_clear()
    yield Trainee(project)
    torch.set_num_threads(threads)


class Box:
    """GPUs as the stand-in for NVML tells them, here and in child processes; call `save` after a change."""

    GIB = 2**30

    def __init__(self, file: Path):
        self.file = file
        # 1 is used by a process, 3 and 4 by something unseen.
        self.devices: list[dict] = [{} for _ in range(8)]
        self.devices[1] = {"memory_used": 41 * self.GIB, "utilisation": 99, "processes": [[4_000_001, 41 * self.GIB]]}
        self.devices[3] = {"memory_used": 5 * self.GIB}
        self.devices[4] = {"utilisation": 87}
        self.save()

    def save(self) -> None:
        aside = self.file.with_suffix(".new")
        aside.write_text(json.dumps(self.devices))
        aside.replace(self.file)

    def change(self, index: int, **facts) -> None:
        """Change what the stand-in tells of a device."""
        self.devices[index].update(facts)
        self.save()

    def only(self, *devices: dict) -> None:
        """Let the box consist of these devices."""
        self.devices = list(devices)
        self.save()


@pytest.fixture
def box(tmp_path, monkeypatch):
    """Return a Box of eight GPUs, of which 0, 2, 5, 6 and 7 are free; looks at it take no time."""
    from elmanctl.gpus import free

    made = Box(tmp_path / "nvml.json")
    monkeypatch.setenv("ELMANCTL_NVML", str(made.file))
    monkeypatch.setenv("ELMANCTL_LOCKS", str(tmp_path / "locks"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(free, "SAMPLE_SECONDS", 0.0)
    return made


@pytest.fixture
def write_suite(tmp_path, monkeypatch):
    """Return a function that writes suites/<name>.yaml below the current folder and returns the name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "suites").mkdir()

    def write(text, name="mine"):
        (tmp_path / "suites" / f"{name}.yaml").write_text(text)
        return name

    return write
