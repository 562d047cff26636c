"""`elmanctl bench`: plans, refusals, and real trials on the CPU."""

import json
from types import SimpleNamespace

import pytest

from elmanctl.files import read_json
from elmanctl.records import Trial
from elmanctl.toolchain import device_target
from elmanctl.verify import receipt


def test_a_dry_run_shows_rows_sizes_and_gpus_where_there_is_none(project, monkeypatch):
    monkeypatch.setenv("ELMANCTL_NVML", "absent")
    ran = project.run("bench", "e88_vs_baselines", "--gpus", "0-5", "--dry-run")
    assert ran.code == 1 and "E88h8n32" in ran.out and "99.06M" in ran.out
    assert "Not ready: There is no GPU here" in ran.err
    assert not (project.path / "runs").exists()
    ran = project.run("bench", "e88_vs_baselines", "--gpus", "0,3", "--dry-run", "--json")
    assert ran.code == 1 and "Not ready: There is no GPU here" in ran.err
    data = json.loads(ran.out)
    sized = [row for row in data["rows"] if row["params"]]
    assert [row["device"] for row in sized][:3] == ["GPU 0", "GPU 3", "when one is free"]
    assert all(row["budget"] == "10 minutes" and row["batch"] == 32 for row in sized)
    call = ["bench", "e88_vs_baselines", "--gpus-per-trial", "2", "--dry-run", "--json", "--gpus"]
    data = json.loads(project.run(*call, "0-3").out)
    assert [row["device"] for row in data["rows"] if row["params"]][:3] == [
        "GPU 0, GPU 1",
        "GPU 2, GPU 3",
        "when one is free",
    ]
    data = json.loads(project.run(*call, "0").out)
    assert "A trial takes 2 GPUs and the run may use 1. Choose more" in " ".join(data["obstacles"])


@pytest.mark.parametrize("seen", [True, False])
def test_the_receipt_of_a_row_is_looked_up_for_the_target_that_verify_writes(mine, box, monkeypatch, seen):
    made = SimpleNamespace(source_hash="0123456789abcdef")
    monkeypatch.setattr(receipt, "find", lambda spec, target: made if target == device_target(9, 0) else None)
    if not seen:
        box.file.unlink()
    plan = json.loads(mine.run("bench", "big", "--dry-run", "--json").out)
    assert {row["label"]: row["receipt"] for row in plan["rows"]} == {"gru": "", "E42": "0123456789ab"}


def test_without_a_gpu_a_suite_for_gpus_is_refused_with_what_runs_instead(mine, monkeypatch):
    monkeypatch.setenv("ELMANCTL_NVML", "absent")
    ran = mine.run("bench", "big")
    assert ran.code == 2 and "elmanctl bench smoke" in ran.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--gpus", "9"], "there is no GPU 9; this machine has GPUs 0 to 7"),
        (["--gpus", "5-0"], "runs backwards. Try 0-5"),
        (["--gpus", "0,1"], "GPU 1 is in use by another process"),
        (["--gpus", "all"], "Choose with --gpus 0,2,5,6,7"),
        (["--steps", "5", "--minutes", "1"], "exactly one budget"),
        (["--steps", "0"], "steps=0 is not a positive number"),
        (["--tokens", "5Q"], "--tokens 5Q"),
        (["--only", "gruu"], "big has no such row. Close: gru"),
        (["--batch-sizes", "8,x"], "--batch-sizes 8,x"),
        (["--batch-sizes", "0"], "positive whole numbers"),
        (["--run", "../elsewhere"], "not a plain folder name"),
    ],
)
def test_bad_input(mine, box, trials, arguments, says):
    ran = mine.run("bench", "big", *arguments)
    assert ran.code == 2 and says in ran.err and not trials.seen


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "data/text does not exist"), ("", "is empty"), ("short", "need about"), (..., "is a folder")],
)
def test_data_that_cannot_be_trained_on_is_refused_before_anything_starts(mine, trials, content, says):
    path = mine.path / "data" / "text"
    path.unlink()
    if content is ...:
        path.mkdir()
    elif content is not None:
        path.write_text(content)
    ran = mine.run("bench", "mine")
    assert ran.code == 2 and says in " ".join(ran.err.split()) and not trials.seen
    ran = mine.run("bench", "mine", "--dry-run")
    assert ran.code == 1 and says in " ".join(ran.err.split()) and "E42" in ran.out


@pytest.mark.parametrize("state", ["none", "stale", "red"])
def test_a_kernel_without_a_device_receipt_is_refused_unless_its_row_is_marked_for_good(
    mine, box, trials, monkeypatch, state
):
    monkeypatch.setattr(receipt, "find", lambda spec, target: None)
    monkeypatch.setattr(receipt, "state", lambda spec, target: state)
    ran = mine.run("bench", "big", "--run", "r")
    target = device_target(9, 0)
    assert ran.code == 2 and f"No receipt for {target} vouches for E42 ({state})" in ran.err and not trials.seen
    assert "--unverified" in ran.err and not (mine.path / "runs").exists()
    assert "Not ready: No receipt" in mine.run("bench", "big", "--dry-run").err
    assert mine.run("bench", "big", "--run", "r", "--unverified").code == 0
    monkeypatch.setattr(receipt, "state", lambda spec, target: "green")
    report = json.loads(mine.run("report", "r", "--json").out)
    assert {row["model"]: row["receipt"] for row in report["rows"]}["E42"] == "unverified"
    assert any("No receipt vouched for the kernel of E42" in note for note in report["notes"])
    assert [row["receipt"] for row in report["rows"] if row["model"] == "gru"] != ["unverified"]
    assert "unverified" in (mine.path / "runs/r/report.md").read_text()


def test_trials_go_to_the_free_gpus_by_uuid(mine, box, trials, vouched):
    ran = mine.run("bench", "big", "--run", "r")
    assert ran.code == 0
    assert {device for _, device in trials.seen} == {"GPU-0", "GPU-2"}
    trial = read_json(mine.path / "runs/r/gru/trial.json", Trial)
    assert trial.device == "cuda" and trial.suite == "big" and trial.training.batch == 2


def test_the_end_is_told_and_a_damaged_record_named_also_where_the_report_cannot_be_written(mine, trials):
    mine.run("bench", "mine", "--run", "r")
    (mine.path / "runs/r/gru/result.json").write_text("{")
    (mine.path / "runs/r/report.md").unlink()
    (mine.path / "runs/r/report.md").mkdir()
    ran = mine.run("bench", "--resume", "r", "--on-end", "sh -c 'echo $ELMANCTL_OK $ELMANCTL_NOT_OK > told'")
    assert ran.code == 2 and "report.md could not be written" in ran.err
    assert (mine.path / "told").read_text() == "0 gru: unfinished\n"
    (mine.path / "runs/r/report.md").rmdir()
    ran = mine.run("bench", "--resume", "r")
    assert ran.code == 1 and "gru/result.json is not a Result record" in " ".join(ran.out.split())


def test_an_absent_package_is_a_failed_row_with_its_install_line_and_the_others_run(mine, trials, monkeypatch):
    from elmanctl.variant import Variant

    monkeypatch.setattr(Variant, "missing", lambda self: ["cudnn"] if self.name == "gru" else [])
    ran = mine.run("bench", "mine", "--run", "r")
    assert ran.code == 1 and [label for label, _ in trials.seen] == ["E42"]
    data = json.loads(mine.run("report", "r", "--json").out)
    rows = {row["label"]: row for row in data["rows"]}
    assert rows["gru"]["status"] == "failed" and "gru needs cudnn" in rows["gru"]["message"]
    assert rows["gru"]["params"] is None and rows["E42"]["status"] == "ok"


def test_batch_sizes_make_their_own_table(mine, trials):
    trials.ends = {"E42@64": {"status": "oom", "tokens_per_second": None, "message": "out of memory"}}
    ran = mine.run("bench", "mine", "--batch-sizes", "8,64", "--run", "b")
    assert ran.code == 1 and "batch 64" in ran.out and "oom" in ran.out and "E42@64: oom" in ran.err
    trial = read_json(mine.path / "runs/b/gru_8/trial.json", Trial)
    assert (trial.training.batch, trial.budget.steps, trial.training.eval_batches) == (8, 60, 0)
    assert "| gru | 400 tok/s, 1 MiB | 400 tok/s, 1 MiB |" in (mine.path / "runs/b/report.md").read_text()


def test_an_unmatched_row_stops_the_suite(mine, trials):
    mine.write("suites/off.yaml", mine.suite.replace("{model: gru}", "{model: gru, dim: 256}"))
    ran = mine.run("bench", "off")
    assert ran.code == 2 and "gru 256x2 has" in ran.err and not trials.seen


def test_a_real_run_on_the_cpu_ends_with_a_report(mine):
    ran = mine.start("bench", "mine", "--run", "r", "--no-preflight", OMP_NUM_THREADS="1")
    assert ran.code == 0, ran.err
    assert "gru: ok after 25 steps" in ran.err and "E42: ok after 25 steps" in ran.err
    report = (mine.path / "runs/r/report.md").read_text()
    assert "| E42 |" in report and "| gru |" in report and " reference |" in report
    steps = (mine.path / "runs/r/E42/steps.jsonl").read_text().splitlines()
    assert len(steps) == 25 and json.loads(steps[0])["tokens"] == 16


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["bench"], "Name a suite"),
        (["bench", "--kernels", "E42", "--shape", "Q=3"], "'Q=3' is none of"),
        (["bench", "--kernels", "E42", "--sweep", "H"], "--sweep H"),
        (["bench", "smoke", "demo"], "runs one suite and was given smoke, demo"),
        (["bench", "--kernels", "E42", "E33@dim=64", "--against", "E1"], "no model here is one of variant E1"),
        (["bench", "--kernels", "gru"], "no kernel of its own"),
        (["bench", "--kernels", "E42", "--gpus", "0,2"], "names 2 GPUs"),
        (["bench", "--kernels", "E42", "--gpus", "1"], "pid 4000001"),
    ],
)
def test_timing_kernels_refuses_what_it_cannot_do(project, box, arguments, says):
    ended = project.run(*arguments)
    assert ended.code == 2 and says in ended.err


def test_seeds_repeat_every_row_and_a_plain_name_means_all_of_them(mine):
    def labels(*arguments):
        ran = mine.run("bench", "mine", "--dry-run", "--json", *arguments)
        return [row["label"] for row in json.loads(ran.out)["rows"]]

    assert labels("--seeds", "3", "--only", "gru") == ["gru", "gru seed 43", "gru seed 44"]
    assert labels("--seeds", "2") == ["gru", "E42", "gru seed 43", "E42 seed 43"]
    assert labels("--batch-sizes", "1,2") == ["gru@1", "gru@2", "E42@1", "E42@2"]
    mine.write("suites/mine.yaml", f"{mine.suite}seeds: 2\n")
    assert labels("--batch-sizes", "1,2") == ["gru@1", "gru@2", "E42@1", "E42@2"], "a table takes the first"
    refused = mine.run("bench", "mine", "--seeds", "0")
    assert refused.code == 2 and "--seeds" in refused.err
