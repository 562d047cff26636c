import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from elmanctl.files import read_json
from elmanctl.records import Result, Trial
from elmanctl.runlog import TRIAL

SMALL = ("--dim", 16, "--depth", 2, "--batch", 4, "--chunk", 16)


def test_trains_from_a_name_to_a_summary_and_records(trainee):
    ran = trainee.run(
        "train",
        "toy",
        *SMALL,
        "--steps",
        110,
        "--lr",
        0.02,
        "--seed",
        7,
        "--device",
        "cpu",
        "--out",
        "r",
        "--checkpoint-layers",
        1,
        "--loss-chunks",
        4,
    )
    assert ran.code == 0, ran.err
    trial, result = read_json(Path("r/trial.json"), Trial), read_json(Path("r/result.json"), Result)
    assert (trial.model, trial.dim, trial.depth, trial.device) == ("Toy", 16, 2, "cpu")
    assert (trial.training.lr, trial.training.seed, trial.training.batch, trial.training.chunk) == (0.02, 7, 4, 16)
    assert (trial.training.checkpoint_layers, trial.training.loss_chunks) == (1, 4)
    assert trial.params == 256 * 16 + 2 * (16 * 16 * 2 + 16 * 2 + 16) + 16
    for text in (
        "Toy 16x2, 5.232K parameters",
        "ok",
        f"{result.last100_loss:.4f}",
        f"{result.heldout_loss:.4f}",
        "data/pile.txt",
    ):
        assert text in ran.out
    assert "Training Toy" in ran.err


def test_json_is_the_records(trainee):
    ran = trainee.run("train", "Toy", *SMALL, "--tokens", "256", "-o", "gain=0.5", "--json")
    document = json.loads(ran.out)
    assert ran.code == 0 and document["result"]["steps"] == 4 and document["trial"]["model"] == "Toy:gain=0.5"
    folder = Path(document["folder"])
    assert folder.parent == Path("runs") and (folder / "steps.jsonl").exists()


def test_params_chooses_the_nearest_legal_width(trainee):
    rest = ("--depth", 1, "--batch", 4, "--chunk", 16, "--steps", 1, "--json")
    exact = trainee.run("train", "Toy", "--params", "66K", *rest)
    assert exact.code == 0 and json.loads(exact.out)["trial"]["dim"] == 128
    relaxed = json.loads(trainee.run("train", "Toy", "--params", "100K", "--relax", "dim", *rest).out)["trial"]
    assert relaxed["dim"] == 168 and relaxed["relaxed"] == ["dim"] and abs(relaxed["params"] / 1e5 - 1) < 0.01
    far = trainee.run("train", "Toy", "--params", "100K", *rest)
    assert far.code == 2 and "nearest to 100K at depth 1 is 128" in far.err and "--dim 128" in far.err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["Toy", *SMALL], "exactly one budget, of steps, tokens or minutes; given: none"),
        (["Toy", *SMALL, "--steps", 1, "--minutes", 1], "given: steps=1 and minutes=1.0"),
        (["Toy", *SMALL, "--steps", 0], "steps=0 is not a positive number"),
        (["Toy", "--params", "100Q", "--steps", 1], "unknown suffix Q"),
        (["Toy", "--steps", 1], "--params (100M, say) and --dim"),
        (["Toy", *SMALL, "--params", "1M", "--steps", 1], "--params (100M, say) and --dim"),
        (
            ["Toy", "--params", "1B", "--depth", 1, "--steps", 1, "--batch", 0],
            "training batch=0 is not a positive number",
        ),
        (["Tog", *SMALL, "--steps", 1], "Unknown variant Tog. Close: Toy"),
        (["Toy", *SMALL, "--steps", 1, "-o", "gian=1"], "no option gian"),
        (["Toy", *SMALL, "--steps", 1, "--data", "none.txt"], "none.txt does not exist"),
        (["Toy", *SMALL, "--steps", 1, "--data", "data"], "data is a folder"),
        (["Toy", *SMALL, "--steps", 1, "--chunk", 5000], "Use a smaller --batch or --chunk"),
        (["Toy", *SMALL, "--steps", 1, "--device", "gpu"], "Unknown device gpu"),
        (["Toy", *SMALL, "--steps", 1, "--lr", -1], "training lr=-1.0"),
        (["Toy", *SMALL, "--steps", 1, "--relax", "height"], "--relax height"),
        (["E75h4n32", "--dim", 130, "--depth", 1, "--steps", 1], "dim=130 is not a multiple of"),
        ([], "Name the model to train"),
        (["--resume", "nowhere"], "nowhere is no run: it holds no trial.json. `elmanctl runs ls`"),
    ],
)
def test_a_bad_request_exits_2_says_why_and_leaves_nothing(trainee, arguments, text):
    ran = trainee.run("train", *arguments)
    assert ran.code == 2 and text in ran.err and "Traceback" not in ran.err
    assert not Path("runs").exists()


def test_divergence_exits_1_after_the_summary(trainee):
    ran = trainee.run("train", "Toy", *SMALL, "--steps", 5, "-o", "break_at=3", "--out", "r")
    assert ran.code == 1 and "diverged" in ran.out and "step 3: loss nan" in ran.err


def test_a_folder_with_a_run_is_not_overwritten(trainee):
    assert trainee.run("train", "Toy", *SMALL, "--steps", 2, "--out", "r").code == 0
    before = Path("r/result.json").read_bytes()
    ran = trainee.run("train", "Toy", *SMALL, "--steps", 3, "--out", "r")
    assert ran.code == 2 and "holds a run already" in ran.err and Path("r/result.json").read_bytes() == before


def test_ctrl_c_exits_130_and_resume_finishes_the_run(trainee):
    call = [
        sys.executable,
        "-c",
        "from elmanctl.cli import main; main()",
        "train",
        "Toy",
        *map(str, SMALL),
        "--steps",
        "40",
    ]
    call += ["-o", "seconds=0.02", "--checkpoint-every", "500", "--out", "r"]
    process = subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (Path("r/steps.jsonl").exists() and Path("r/steps.jsonl").stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "interrupted" in out and "Stopping after this step" in err
    stopped = read_json(Path("r/result.json"), Result)
    assert 0 < stopped.steps < 40
    ran = trainee.run("train", "--resume", "r", "--steps", 50)
    assert ran.code == 2 and "give the folder alone" in ran.err
    ran = trainee.run("train", "--resume", "r")
    assert ran.code == 0 and f"Resuming after step {stopped.steps}" in ran.err
    assert read_json(Path("r/result.json"), Result).steps == 40
    ran = trainee.run("train", "--resume", "r")
    assert ran.code == 2 and "is finished" in ran.err


def test_resume_without_a_checkpoint_says_so_and_keeps_the_result(trainee):
    trainee.run("train", "Toy", *SMALL, "--steps", 5, "-o", "break_at=3", "--out", "r")
    before = Path("r/result.json").read_bytes()
    ran = trainee.run("train", "--resume", "r")
    assert ran.code == 2 and "no checkpoint to resume from" in ran.err and Path("r/result.json").read_bytes() == before


def test_the_record_names_the_corpus_that_stood_in_for_the_default_file(trainee):
    Path("data/pile.txt").rename("data/corpus.txt")
    ran = trainee.run("train", "Toy", *SMALL, "--steps", 1, "--out", "r")
    assert ran.code == 0 and ran.err.count("embedded corpus data/corpus.txt") == 1
    assert read_json(Path("r") / TRIAL, Trial).training.data == "data/pile.txt"
    assert read_json(Path("r/result.json"), Result).data == "data/corpus.txt"
