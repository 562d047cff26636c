"""What `bench --kernels` keeps of a run that an error ends, and what it does not ask a library for."""

from types import SimpleNamespace

import msgspec
import pytest

from elmanctl.commands import bench_kernels
from elmanctl.kernelbench import ahead, ceilings, rivals, run, shapes, show
from elmanctl.plugins.registry import registry
from elmanctl.verify import receipt


def test_flashrnn_is_not_asked_for_more_than_it_can_address():
    with pytest.raises(rivals.Absent, match="128 x 8192 x 2048 elements are 2\\^31 or more"):
        rivals.flashrnn({"B": 128, "T": 8192, "D": 2048}, 1)


def test_rows_before_an_error_are_in_the_record(monkeypatch, tmp_path):
    gpu = SimpleNamespace(uuid="", target="sm_90a", name="NVIDIA H200")
    timed = run.row_of(registry().resolve("E1"), run.OWN, shapes.Shape(), forward=(1.0, 1.0, 1.0), both=(3.0, 3.0, 3.0))

    def rows(*args, **kwargs):
        yield timed
        raise run.ContextLost("E1 left an error")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(bench_kernels, "one_gpu", lambda text: gpu)
    monkeypatch.setattr(receipt, "require", lambda specs, target: {"E1": SimpleNamespace(source_hash="0" * 64)})
    monkeypatch.setattr(ahead, "compile_all", lambda *args: None)
    monkeypatch.setattr(ceilings, "measure", lambda device: {"copy_gb_s": 4e3, "bf16_tflop_s": 7e2})
    monkeypatch.setattr(run, "rows", rows)
    with pytest.raises(run.ContextLost):
        bench_kernels.time_kernels(["E1"], None, None, None, "broken", 1.0, None, False)
    record = msgspec.json.decode((tmp_path / "runs/broken/kernels.json").read_bytes(), type=show.Record)
    assert record.rows == [timed] and "E1" in (tmp_path / "runs/broken/kernels.md").read_text()
