"""bench/floors.py and bench/divisions.py as far as they go without a GPU."""

import importlib
from pathlib import Path

import pytest
import torch

from elmanctl import launch
from elmanctl.kernelbench.inputs import capture
from elmanctl.plugins.registry import registry

BENCH = Path(__file__).parent.parent / "bench"


class Clock:
    median = 64.0


@pytest.fixture
def load(monkeypatch):
    """Return a module of bench/ by name, whose graphs run at once and whose clock always says 64 us."""
    monkeypatch.syspath_prepend(BENCH)

    def loaded(name):
        module = importlib.import_module(name)
        monkeypatch.setattr(module, "captured", lambda one, count: [one(n) for n in range(count)])
        monkeypatch.setattr(module, "interleaved", lambda graphs, count, seconds=0: [Clock() for _ in graphs])
        return module

    return loaded


def test_every_product_of_a_step_is_listed_with_its_shape(load):
    floors = load("floors")
    # On a CPU the reference runs: rows of 2 in each of 8 steps besides the products over all 16 rows.
    found = floors.products(floors.Row("E36", 64, 2, 2, 8), torch.device("cpu"))
    assert found[16, 64, 64] == 2 * (3 + 3) and found[64, 16, 64] == 2 * 3, "W_in, W_x, W_out; their gradients"
    assert (found[16, 64, 256], found[16, 256, 64], found[256, 16, 64]) == (1, 1, 1), "the head"


def test_the_smallest_kernel_has_one_tile_a_block(load, monkeypatch):
    floors = load("floors")
    # Blocks of many warps together are more fibers than a process has maps for whose libraries hold the stacks of earlier tests.
    monkeypatch.setattr(floors, "SMALL", floors.SMALL[1:])
    forward, backward, width = floors.smallest(floors.Row("E42", 96, 1, 9, 8), torch.device("cpu"))
    assert (forward, backward, width) == (8.0, 0.0, 48), "64 us of 8 steps, and of the same less the weight's gradient"


def test_a_division_that_cannot_be_is_a_row_with_its_reason(load, monkeypatch):
    divisions = load("divisions")
    monkeypatch.setattr("elmanctl.kernelbench.inputs.autocast", lambda device: torch.autocast("cpu", torch.bfloat16))
    call = capture(registry().resolve("E65"), 64, 2, 9, torch.device("cpu"), 0)
    tried = [{}, divisions.parsed("WARPS=1,CHANNELS=2"), {"CHANNELS": 16}]
    divisions.build_all(call, tried[:2])
    seen = []
    monkeypatch.setattr(launch, "load", lambda *given, real=launch.load: seen.append(given[1]) or real(*given))
    first, second, third = divisions.timed([call], call.upstream(call.forward(), 0), tried)
    assert first == second == (64.0, 64.0) and isinstance(third, str)
    assert {(c["WARPS"], c["CHANNELS"]) for c in seen} >= {(4, 1), (1, 2)}
