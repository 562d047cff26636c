"""What bench/two_gpus.py demands of a run in which a stranger came to the second GPU; the run itself needs two GPUs."""

import importlib.util
from pathlib import Path

import pytest

FILE = Path(__file__).parent.parent.parent / "bench" / "two_gpus.py"
STORY = {"gpu": "GPU-1", "row": "b", "pid": 7, "began": 100.0, "ended": 130.0, "code": 0}
CLEAN = {"status": "ok", "steps": 900, "evidence": ()}
MARKED = {"status": "contaminated", "steps": 900, "evidence": ("processes of others on the GPU in 9 of 60 samples",)}


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("two_gpus", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def row(gpu, began, ended, facts):
    return {"devices": (gpu,), "began": began, "ended": ended, **facts}


def test_the_row_beside_the_stranger_has_to_be_marked_and_no_other(script):
    rows = {
        "a": row("GPU-0", 0.0, 120.0, CLEAN),
        "b": row("GPU-1", 0.0, 120.0, MARKED),
        "c": row("GPU-1", 140.0, 260.0, CLEAN),
    }
    assert script.wrong(rows, STORY) == []
    missed = script.wrong(rows | {"b": row("GPU-1", 0.0, 120.0, CLEAN)}, STORY)
    assert missed == ["b shared its GPU and is ok with 900 steps"]
    (blamed,) = script.wrong(rows | {"a": row("GPU-0", 0.0, 120.0, MARKED)}, STORY)
    assert "a is blamed for a stranger it did not meet" in blamed
    (killed,) = script.wrong(rows, STORY | {"code": -9})
    assert "not by itself" in killed
    assert "no stranger came" in script.wrong({}, STORY | {"began": 0.0})[0]


def test_a_row_that_trains_is_found_by_its_gpu(script, line):
    line.add("b")
    line.queue.write("start", "b", device="GPU-0,GPU-1")
    line.queue.write("run", "b")
    assert script.training_on(line.run, "GPU-1") == ""
    step = '{"step":1,"loss":1.0,"lr":0.1,"grad_norm":1.0,"seconds":1.0,"tokens":1}\n'
    (line.run / "b").mkdir()
    (line.run / "b/steps.jsonl").write_text(step * script.STEPS_BEFORE)
    assert script.training_on(line.run, "GPU-1") == "b" and script.training_on(line.run, "GPU-2") == ""


def test_rows_are_read_with_their_witness(script, line, box):
    line.add("a")
    line.go()
    found = script.rows_of(line.run)["a"]
    assert (found["status"], found["verdict"], found["samples"], found["devices"]) == ("ok", "unwatched", 0, ("CPU",))
