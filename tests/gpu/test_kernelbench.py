"""Times of real kernels on a GPU: positive, in order, and of every contender that needs no package."""

import pytest
import torch

from elmanctl import build
from elmanctl.kernelbench import ahead, ceilings, compare, run, shapes
from elmanctl.plugins.registry import registry

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("name", ["E42", "E88h8n32"])
def test_a_kernel_and_its_rivals_are_timed(name):
    shape = shapes.Shape(B=8, T=32, dim=256)
    rows = list(run.rows(registry().resolve(name), [shape], torch.device("cuda"), "vouched"))
    own = [r for r in rows if r.contender == run.OWN]
    assert len(own) == 1 and own[0].receipt == "vouched" and own[0].gb_s > 0 and own[0].tflop_s > 0
    for row in rows:
        assert row.note or 0 < row.forward[1] <= row.forward[0] <= row.forward[2]
        assert row.note or row.both[0] > row.forward[0]
    assert {r.contender for r in rows} >= set(registry().resolve(name).variant.kernel().rivals)


def test_ceilings_are_those_of_a_gpu():
    found = ceilings.measure(torch.device("cuda"))
    assert found["copy_gb_s"] > 50 and found["bf16_tflop_s"] > 5


def test_what_is_compiled_ahead_is_what_is_timed(monkeypatch):
    device, shape = torch.device("cuda"), shapes.Shape(B=8, T=32, dim=256)
    specs = [registry().resolve(name) for name in ("E1", "E4", "E29an8", "E88h8n32")]
    ahead.compile_all([(spec, shape) for spec in specs], device, jobs=4)

    def forbidden(*_):
        raise AssertionError("it was to be there already")

    monkeypatch.setattr(build, "compile_into", forbidden)
    rows = [row for spec in specs for row in run.rows(spec, [shape], device, "vouched", alone=True)]
    assert [row.contender for row in rows if row.step] == [run.OWN] * 4, [row.note for row in rows]
    lines = compare.cells(rows, "E1", 1000.0)
    assert [float(line[compare.COLUMNS.index("times")] or 0) > 0 for line in lines] == [True, True, True, False]
