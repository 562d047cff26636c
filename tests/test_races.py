"""A kernel of each family under the host's sanitizers: a barrier between any two accesses to one place, and no access outside. What
the receipts of all others say of it is asked for in verify/test_receipt.py."""

import shutil
from pathlib import Path

import pytest

from elmanctl import toolchain
from elmanctl.plugins.discovery import forget, load_folder
from elmanctl.variant import Spec
from elmanctl.verify import hashes, sanitize
from elmanctl.verify.plan import Plan, Request
from elmanctl.verify.sanitize import host

KERNELS = sorted(p.parent for p in (Path(__file__).parent.parent / "variants").glob("*/*.cu.cc"))


def plan_of(folder: Path) -> Plan:
    variant = load_folder(folder).variant
    return Plan(Request(Spec(variant, variant.config()), "cpu"))


FAMILIES = {hashes.family(load_folder(p).variant): p for p in KERNELS}  # one kernel of each


@pytest.mark.parametrize("folder", FAMILIES.values(), ids=lambda p: p.name)
def test_no_race(folder):
    plan = plan_of(folder)
    ok, text, ran = host.race(plan, sanitize.runs(plan, "float32"))
    assert ok and ran, text


@pytest.mark.parametrize("folder", FAMILIES.values(), ids=lambda p: p.name)
def test_no_access_outside(folder):
    plan = plan_of(folder)
    ok, text, ran = host.address(plan, sanitize.runs(plan, "bfloat16"))
    assert ok and ran, text


def test_a_barrier_left_out_of_a_family_is_found(tmp_path):
    """A variant's own copy of a header shadows the shared one; here one without a barrier."""
    folder = tmp_path / "variants" / "unfenced"
    shutil.copytree(KERNELS[0].parent / "e1", folder, ignore=shutil.ignore_patterns("__pycache__"))
    name = "elman/families/dense_recurrence/engine.cuh"
    text = (toolchain.csrc_folder() / name).read_text()
    assert "  sync_block();\n" in text
    (folder / name).parent.mkdir(parents=True)
    (folder / name).write_text(text.replace("  sync_block();\n", ""))
    try:
        plan = plan_of(folder)
        ok, found, _ = host.race(plan, sanitize.runs(plan, "float32"))
    finally:
        forget("elmanctl_variants.unfenced")
    assert not ok
    for part in ("race: ", " of shared memory byte ", " thread ", ", then engine.cuh:", "threads in order"):
        assert part in found, found
