"""What each shipped kernel uses on three architectures stays within the budgets of its binding.py: a gate that needs no GPU."""

import json
import shutil
from pathlib import Path

import pytest
from kernels import distinct

from elmanctl import resources
from elmanctl.cli import run
from elmanctl.plugins.registry import registry
from elmanctl.toolchain import device_target

OWN = Path(__file__).resolve().parent.parent / "variants"
KERNELS = [v for v in registry().variants().values() if v.has_kernel and v.folder.is_relative_to(OWN)]
DISTINCT = {v.folder: v for v in KERNELS}
DISTINCT = [DISTINCT[folder] for folder in distinct(DISTINCT)]
ARCHITECTURES = ((8, 0), (8, 9), (9, 0))
FIGURES = {"registers", "spill_bytes", "shared_bytes"}
NVCC = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")


@pytest.mark.parametrize("variant", KERNELS, ids=lambda v: v.name)
def test_a_kernel_states_a_budget_for_each_figure(variant):
    assert set(variant.kernel().budgets) >= FIGURES


@pytest.mark.skipif(NVCC is None, reason="nvcc is absent: registers, spills and shared memory were not checked")
@pytest.mark.parametrize("capability", ARCHITECTURES, ids=lambda c: f"sm_{c[0]}{c[1]}")
@pytest.mark.parametrize("variant", DISTINCT, ids=lambda v: v.name)
def test_a_kernel_keeps_its_budget(variant, capability, capsys):
    """In bf16, in which models are trained on a GPU; as `elmanctl build` has it."""
    code = run(["build", variant.name, "--arch", device_target(*capability), "--dtype", "bfloat16", "--json"])
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert code == 0 and found["failed"] == [], said.err
    (built,) = found["builds"]
    assert built["over_budget"] == [] and built["budgets"] == variant.kernel().budgets
    assert len(built["functions"]) >= 2, "a forward and a backward kernel"
    for row in built["functions"]:
        assert row["registers"] > 0 and row.keys() >= FIGURES, row


@pytest.mark.skipif(NVCC is None, reason="nvcc is absent")
@pytest.mark.parametrize("name", ["E42", "E63", "E34", "E29a", "E88h32n16"])
def test_a_family_compiles_for_a_chip_after_those_that_were_tuned(name, capsys):
    assert run(["build", name, "--arch", "sm_100", "--dtype", "bfloat16", "--json"]) == 0
    (built,) = json.loads(capsys.readouterr().out)["builds"]
    assert built["target"] == "sm_100a" and not built["gated"] and len(built["functions"]) >= 2


def test_only_kernels_that_differ_in_name_alone_count_as_one():
    of = {v.name: v.folder for v in KERNELS}
    assert distinct([of["E33"], of["E38"], of["E36"], of["E1"]]) == [of["E33"], of["E36"], of["E1"]]
    assert distinct([of["E0"], of["E1"], of["E2"], of["E35"]]) == [of["E0"], of["E1"], of["E2"], of["E35"]]


def test_a_figure_above_its_budget_is_named():
    row = {"function": "f", "registers": 200, "spill_bytes": 8, "shared_bytes": 0}
    over = resources.over_budget([row], {"registers": 168, "spill_bytes": 0, "shared_bytes": 4096})
    assert over == [
        "f: registers=200 is above the budget of 168 in binding.py",
        "f: spill_bytes=8 is above the budget of 0 in binding.py",
    ]
