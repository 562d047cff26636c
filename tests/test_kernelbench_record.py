"""What `bench --kernels` keeps of a run that an error ends, and what it does not ask a library for."""

from types import SimpleNamespace

import msgspec
import pytest

from elmanctl.commands import bench_kernels
from elmanctl.errors import UserError
from elmanctl.kernelbench import ahead, ceilings, rivals, run, shapes, show
from elmanctl.plugins.registry import registry
from elmanctl.verify import receipt


def test_flashrnn_is_not_asked_for_more_than_it_can_address():
    with pytest.raises(rivals.Absent, match="128 x 8192 x 2048 elements are 2\\^31 or more"):
        rivals.flashrnn({"B": 128, "T": 8192, "D": 2048}, 1)


@pytest.fixture
def checked():
    """Return what was verified before it was timed: each model and its shapes."""
    return []


@pytest.fixture
def time_E1(monkeypatch, tmp_path, checked):
    """Return a function that runs `bench --kernels E1` in a folder of its own, whose timing yields what `rows` does."""
    gpu = SimpleNamespace(uuid="", target="sm_90a", name="NVIDIA H200")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(bench_kernels, "one_gpu", lambda text: gpu)
    monkeypatch.setattr(receipt, "require", lambda specs, target: {"E1": SimpleNamespace(source_hash="0" * 64)})
    monkeypatch.setattr(bench_kernels, "check_builds", lambda spec, shapes: checked.append((spec.name, *shapes)))
    monkeypatch.setattr(ahead, "compile_all", lambda *args: None)
    monkeypatch.setattr(ceilings, "measure", lambda device: {"copy_gb_s": 4e3, "bf16_tflop_s": 7e2})

    def time(rows, name=None):
        monkeypatch.setattr(run, "rows", rows)
        bench_kernels.time_kernels(["E1"], None, None, None, name, 1.0, None, False)

    return time


def timed(us: float):
    return run.row_of(registry().resolve("E1"), run.OWN, shapes.Shape(), forward=(us, us, us), both=(3.0, 3.0, 3.0))


def record(folder):
    return msgspec.json.decode((folder / "kernels.json").read_bytes(), type=show.Record)


def test_rows_before_an_error_are_in_the_record(time_E1, tmp_path):
    def rows(*args, **kwargs):
        yield timed(1.0)
        raise run.ContextLost("E1 left an error")

    with pytest.raises(run.ContextLost):
        time_E1(rows, "broken")
    folder = tmp_path / "runs/broken"
    assert record(folder).rows == [timed(1.0)] and "E1" in (folder / "kernels.md").read_text()


def test_builds_are_checked_before_anything_is_timed(time_E1, checked):
    seen = []
    time_E1(lambda *args, **kwargs: seen.extend(checked) or iter([timed(1.0)]), "checked")
    assert seen == [("E1", shapes.Shape())]


def test_every_call_has_a_folder_of_its_own(time_E1, tmp_path):
    for us in (1.0, 2.0):
        time_E1(lambda *args, us=us, **kwargs: iter([timed(us)]))
    folders = sorted((tmp_path / "runs").glob("kernels-*"), key=lambda folder: folder.stat().st_mtime_ns)
    assert [record(folder).rows for folder in folders] == [[timed(1.0)], [timed(2.0)]]


@pytest.mark.parametrize("holds", ["run.json", "kernels.json", "trial.json"])
def test_a_folder_that_holds_a_run_or_a_record_is_refused_before_anything_is_timed(time_E1, tmp_path, holds):
    folder = tmp_path / "runs/mine"
    folder.mkdir(parents=True)
    (folder / holds).write_text("{}")
    with pytest.raises(UserError, match="runs/mine exists, and a record of kernels has a folder of its own"):
        time_E1(None, "mine")
    assert [path.name for path in folder.iterdir()] == [holds]
    (folder / holds).unlink()
    time_E1(lambda *args, **kwargs: iter([timed(1.0)]), "mine")
    assert record(folder).rows == [timed(1.0)]
