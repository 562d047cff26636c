"""Fixtures that several test modules share."""

from pathlib import Path

import numpy as np
import pytest

from elmanctl.plugins.registry import registry
from elmanctl.records import Budget, Training, Trial


class Trainee:
    """A temporary working folder with the Toy variant of tests/trainees, data/pile.txt, and tiny trials on it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.data = self.write_data(folder / "data" / "pile.txt")

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
        settings = {"batch": 4, "chunk": 16, "lr": 3e-3, "eval_batches": 2, "data": str(self.data)} | training
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
def trainee(tmp_path, monkeypatch):
    """Yield a Trainee whose folder is the current one; torch runs on one thread."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("ELMANCTL_VARIANTS", str(Path(__file__).parent / "trainees"))
    registry.cache_clear()
    yield Trainee(tmp_path)
    registry.cache_clear()
    torch.set_num_threads(threads)
