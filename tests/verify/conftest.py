"""A kernel folder that the tests may break; one thread, since torch's own cost more than they save on small tensors; imports before forks."""

import shutil
from pathlib import Path

import pytest
import torch

from elmanctl.verify import pool

TOYS = Path(__file__).parent


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    pool.prepare(every=True)  # 1.7 s, which each run of many checks would spend in a worker
    yield
    torch.set_num_threads(before)


def copied(toy, tmp_path, monkeypatch):
    """Copy a toy's folder below a `variants` folder that the registry reads; HOME for receipts is set aside."""
    from elmanctl.plugins.registry import registry

    target = tmp_path / "variants" / f"{toy}_{tmp_path.name.replace('-', '_')[-24:]}"
    shutil.copytree(TOYS / toy, target)
    (target / f"{toy}.cu.cc").rename(target / f"{target.name}.cu.cc")
    monkeypatch.setenv("ELMANCTL_VARIANTS", str(tmp_path / "variants"))
    monkeypatch.setenv("ELMANCTL_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    registry.cache_clear()
    yield target
    registry.cache_clear()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return a copy of the integrator's folder."""
    yield from copied("integrator", tmp_path, monkeypatch)


@pytest.fixture
def cell(tmp_path, monkeypatch):
    """Return a copy of the cell's folder."""
    yield from copied("cell", tmp_path, monkeypatch)


@pytest.fixture
def spec(folder):
    """Return the integrator's spec."""
    from elmanctl.plugins.registry import registry

    return registry().resolve("Integrator")
