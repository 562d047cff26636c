"""bench/chains.py as far as it goes without a GPU: its verdicts and tables on given figures, and what the compiler makes of its chains."""

import importlib
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from elmanctl.kernelbench.clock import Timing
from elmanctl.kernelbench.run import Row
from elmanctl.toolchain import compiler

BENCH = Path(__file__).parent.parent / "bench"
NVCC = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
needs_nvcc = pytest.mark.skipif(NVCC is None, reason="nvcc is absent: the chains were not compiled")
KINDS = (("MUFU",), ("FADD", "FMUL", "FFMA", "FMNMX"), ("SHFL",), ("HMMA",))
# How many of each kind a step of a chain has.
STEPS = {
    "Fma": (0, 1, 0, 0),
    "Tanh": (1, 0, 0, 0),
    "Exp2": (1, 0, 0, 0),
    "Reciprocal": (1, 1, 0, 0),
    "Shuffle": (0, 0, 1, 0),
    "mma_chain": (0, 0, 0, 1),
    "Diagonal": (2, 2, 0, 0),
    "ForwardLeastILi16": (1, 5, 0, 0),
    "BackwardLeastILi16": (0, 5, 0, 0),
    "ForwardLeastILi32": (1, 6, 0, 0),
    "BackwardLeastILi32": (0, 6, 0, 0),
    "ForwardWrittenILi4ELi4": (
        2,
        6 + 4 + 2,
        2,
        0,
    ),  # min, 5 fma and products around the two; the row; its sums
    "BackwardWrittenILi4ELi4": (0, 2 + 4 + 2 + 1, 2, 0),
    "ForwardWrittenILi8ELi4": (2, 6 + 5 + 2, 2, 0),
    "BackwardWrittenILi4ELi8": (0, 2 + 4 + 3 + 1, 3, 0),
}


@pytest.fixture
def chains(monkeypatch):
    monkeypatch.syspath_prepend(BENCH)
    return importlib.import_module("chains")


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCH)
        return importlib.import_module("chains").compiled("sm_90a", tmp_path_factory.mktemp("chains"))


def row(batch: int, length: int, both: float) -> Row:
    return Row(model="E42", contender="kernel", B=batch, T=length, dim=64, forward=(both / 3,) * 3, both=(both,) * 3)


@pytest.mark.parametrize(
    ("flat", "chain", "measured", "said"),
    [
        (21.0, 39.0, 397.0, "cannot be"),
        (21.0, 20.9, 397.0, "not excluded"),
        (21.0, 20.9, 21.0, "is flat"),
        (21.0, 39.0, 38.0, "measured wrongly"),  # faster than what it cannot do without
        (21.0, -1.0, 38.0, "measured wrongly"),
        (21.0, float("nan"), 38.0, "measured wrongly"),
    ],
)
def test_flat_is_excluded_by_a_longer_chain_only(chains, flat, chain, measured, said):
    assert chains.verdict(flat, chain, measured) == said


def test_a_table_sets_each_models_chain_beside_what_flat_leaves(chains):
    models = [
        chains.Model(name, 64, parts, ("step", "long"))
        for name, parts in (("slow", ("long",)), ("quick", ("step",) * 2), ("even", ("step",)))
    ]
    found = {"step": chains.Cost(5, 10), "long": chains.Cost(50, 100)}
    rows = {name: [row(64, 512, 655.36), row(1, 32768, 3276.8)] for name in ("slow", "quick")}
    rows["even"] = [row(64, 512, 655.36), row(1, 32768, 655.36)]
    assert chains.left(*rows["slow"]) == pytest.approx(22), "655 us over 32768 steps, and a tenth"
    lines = chains.table(tuple(models), rows, found)
    assert chains.clock(found) == 2 and "| long | 100.0 | 50.00 |" in chains.parts_table(found)
    assert lines[-5].startswith(
        "| | ms, B=64, T=512 | ms, B=1, T=32768 | ns a step, longest T | flat leaves, ns | least chain, ns | times |"
    )
    assert lines[-3:] == [
        "| slow | 0.655 | 3.277 | 100.0 | 22.0 (44 cycles) | 50.0 (100) | 2.27 | 55.0 (110) | cannot be |",
        "| quick | 0.655 | 3.277 | 100.0 | 22.0 (44 cycles) | 10.0 (20) | 0.45 | 55.0 (110) | not excluded |",
        "| even | 0.655 | 0.655 | 20.0 | 22.0 (44 cycles) | 5.0 (10) | 0.23 | 55.0 (110) | is flat |",
    ]
    assert len({line.count("|") for line in lines[-5:]}) == 1


def test_a_step_costs_the_difference_of_two_lengths_and_a_way_half_a_trip(chains):
    def measure(name, steps, peer=1, place=0):
        each = {"fma": 2.0, "cluster": 200.0}.get(name, 600.0 + peer + place)
        return chains.Cost(1000 + steps * each, 500 + 2 * steps * each)

    found = chains.costs(["fma"], measure, 132)
    assert found["fma"] == pytest.approx((2, 4)) and found["cluster"] == pytest.approx((100, 200))
    fastest, median = found["L2 cache, fastest"], found[chains.EXCHANGED]
    assert fastest == pytest.approx((305, 610), rel=0.01) and median.ns > fastest.ns + 20
    assert found[chains.TRIP] == found["cluster"]
    assert chains.total(("fma", "cluster", "fma"), found) == pytest.approx((104, 208))


def test_passes_are_those_of_the_kernel_along_t(chains, monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr(
        chains.shapes, "sweep", lambda base, axis: [chains.Shape(2, 9, base.dim), chains.Shape(1, 18, base.dim)]
    )
    monkeypatch.setattr(chains.run, "rotations", lambda size, device: 1)
    monkeypatch.setattr(chains.run, "captured", lambda one, count: one(0))
    monkeypatch.setattr(chains.run, "interleaved", lambda graphs, count, seconds: [Timing(64, 64, 64) for _ in graphs])
    monkeypatch.setattr("elmanctl.kernelbench.inputs.autocast", lambda device: torch.autocast("cpu", torch.bfloat16))
    vouched = {}
    monkeypatch.setattr(chains.receipt, "require", lambda specs, target: vouched)
    models = (chains.Model("E42", 64, (), ()),)
    vouched["E42"] = SimpleNamespace(source_hash="0" * 64)
    (rows,) = chains.timed(models, cpu).values()
    assert [(r.B, r.T, r.dim, r.both[0], r.receipt) for r in rows] == [
        (2, 9, 64, 64, "0" * 12),
        (1, 18, 64, 64, "0" * 12),
    ]
    monkeypatch.setattr(chains.run, "captured", refused)
    with pytest.raises(RuntimeError, match="E42 at B=2 T=9: RuntimeError: no graph"):
        chains.timed(models, cpu)


def refused(one, count):
    raise RuntimeError("no graph")


def test_without_a_gpu_it_says_what_it_needs(chains, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert chains.main([]) == 2 and "compute capability 9.0" in capsys.readouterr().err


@needs_nvcc
def test_the_library_has_every_chain_that_a_model_is_measured_by(chains, library):
    names, _ = chains.loaded(library)
    known = {*names, chains.TRIP, chains.EXCHANGED}
    assert all(part in known for model in chains.MODELS for part in (*model.least, *model.written))
    assert len(set(names)) == len(names) == len(STEPS) + 2, "and the barrier, and the state in shared memory"


def loop_of(code: str) -> list[str]:
    """Return the instructions of a kernel's longest loop."""
    lines = [(int(at, 16), text) for at, text in re.findall(r"/\*([0-9a-f]{4,5})\*/\s+(.*?);", code)]
    ends = [(at, re.search(r"\bBRA\b.*0x([0-9a-f]+)", text)) for at, text in lines]
    begin, end = max(
        ((int(m[1], 16), at) for at, m in ends if m and int(m[1], 16) < at), key=lambda span: span[1] - span[0]
    )
    return [re.sub(r"^@!?U?P\w+ ", "", text) for at, text in lines if begin <= at <= end]


@needs_nvcc
def test_every_operation_of_a_chain_waits_for_the_one_before(library):
    """The compiler may not shorten a chain: it does, for example, where a shuffle moves what all lanes have in common."""
    beside = Path(compiler("sm_90a")[0]).resolve().with_name("cuobjdump")
    tool = shutil.which("cuobjdump") or (beside.exists() and str(beside))
    if not tool:
        pytest.skip("cuobjdump is absent: the machine code of the chains was not read")
    code = subprocess.run([tool, "-sass", str(library)], capture_output=True, text=True, check=True).stdout
    kernels = code.split("Function : ")[1:]
    for name, expected in STEPS.items():
        (kernel,) = [k for k in kernels if re.search(rf"(?<![A-Za-z]){name}(?!\d)", k.split("\n")[0])]
        counts, last = [0] * 4, None
        for instruction in loop_of(kernel):
            operation, _, operands = instruction.partition(" ")
            kind = next((i for i, names in enumerate(KINDS) if operation.split(".")[0] in names), None)
            if kind is None:
                continue
            target, *sources = re.findall(r"(?<![A-Z])R\d+", operands)
            assert last is None or last in sources, f"{name}: {instruction}"
            counts[kind], last = counts[kind] + 1, target
        assert [count / 16 for count in counts] == list(expected), name
