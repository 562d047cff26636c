"""Logs of the earlier tools: what they say, what they do not, and files that are none."""

import json

import pytest

from elmanctl import imported
from elmanctl.errors import UserError
from elmanctl.files import read_json
from elmanctl.plan import Run
from elmanctl.records import Result
from elmanctl.report import rows

SCHEDULER = """# Job 3: gru_big
# GPU: 2
# Command: python train.py --level gru --dim 640 --depth 20 --batch_size 32 --chunk_size 512 --lr 3e-4 --seed 42
# Started: 2026-01-19T21:39:56
============================================================

"""
HEADER = """Using device: cuda
Output directory: out/levelgru_100m_20260119_214002
Model: Level gru, 101,783,680 parameters

Starting training from step 0...
Batch size: 32, Chunk size: 512
Gradient accumulation: {accumulation}, Effective batch: 32

"""


def log(losses, every=10, end=True, accumulation=1, header=SCHEDULER, tail="", speed=16416):
    """Return a log with a line each `every` steps; at 16,416 bytes a second a step of 32 x 513 bytes takes one second."""
    lines = [
        f"step {i * every:6d} | loss {loss if isinstance(loss, str) else format(loss, '.4f')} | lr 3.00e-04 | grad 1.50 | tok/s {speed}"
        for i, loss in enumerate(losses, 1)
    ]
    done = f"\nTraining complete! Final step: {len(losses) * every + 6}\nFINAL_LOSS_LAST100: 9.9999\n" if end else ""
    return header + HEADER.format(accumulation=accumulation) + "\n".join(lines) + "\n" + tail + done


@pytest.fixture
def read(tmp_path):
    def read(text, name="03_gru_big.log"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return imported.read(path)

    return read


def test_what_a_log_says_is_read(read):
    found = read(log([5.0 - i / 10 for i in range(20)]))
    assert (found.name, found.model, found.params, found.dim, found.depth) == ("gru_big", "gru", 101_783_680, 640, 20)
    assert (found.batch, found.chunk, found.every, len(found.lines)) == (32, 512, 10, 20)
    result = found.result
    assert (result.status, result.steps, result.tokens) == ("ok", 206, 200 * 32 * 512)
    assert result.seconds == pytest.approx(200) and result.tokens_per_second == pytest.approx(32 * 512)


def test_last100_is_over_steps_not_over_lines(read):
    result = read(log([5.0] * 190 + [2.0, 3.0] * 5)).result
    assert result.last100_loss == pytest.approx(2.5)
    assert "Last-100 by steps, from 10 lines of 10, to step 2000 of 2006." in result.message
    assert "The log's own figure, 9.9999, averages up to 100 log lines." in result.message


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (log([2.0] * 9), "the last lines do not cover 100 steps in a row"),
        (log([2.0] * 20, every=30), "a line covers 30 steps, which do not make up 100"),
        (log([2.0] * 20, accumulation=4), "the printed loss is a sum over 4 accumulated batches"),
        (log([2.0] * 20).replace("step    150 |", "step lost |"), "the last lines do not cover 100 steps in a row"),
        (log([]), "No step was logged"),
    ],
)
def test_where_last100_cannot_be_known_the_record_says_why(read, text, says):
    result = read(text).result
    assert result.last100_loss is None and says in result.message


@pytest.mark.parametrize("bad", ["nan", "NaN", "inf", "-inf"])
def test_nan_is_seen_and_leaves_no_loss(read, bad):
    found = read(log([2.0] * 20 + [bad] + [1.0] * 20))
    assert found.result.status == "diverged" and found.result.last100_loss is None
    assert found.result.steps == 200 and f"loss {bad} at the line of step 210" in found.result.message
    assert len(found.lines) == 20


@pytest.mark.parametrize(
    ("tail", "status"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB\n", "oom"),
        ("Traceback (most recent call last):\n  File x\nKeyError: 'dim'\n", "failed"),
        ("", "interrupted"),
    ],
)
def test_a_log_without_an_end_is_no_finished_run(read, tail, status):
    result = read(log([2.0] * 20, end=False, tail=tail)).result
    assert result.status == status and result.last100_loss is None
    assert not tail or tail.strip().splitlines()[-1] in result.message


def test_later_fields_of_a_line_and_checkpoint_notes_do_no_harm(read):
    text = log([2.0] * 20).replace("tok/s 16416", "tok/s 16416 | elapsed_h 0.01 | time 2026-05-01T10:00:00")
    found = read(
        text.replace("step    100 |", "  >>> saved checkpoint: checkpoint_step_000090_loss_2.0000.pt\nstep    100 |")
    )
    assert found.result.last100_loss == 2.0 and found.result.seconds == pytest.approx(200)


def test_a_line_cut_off_and_bytes_that_are_no_text_do_no_harm(read):
    found = read(log([2.0] * 20, end=False).encode() + b"\xff\xfe\x00 step    210 | lo")
    assert len(found.lines) == 20 and found.result.status == "interrupted"


@pytest.mark.parametrize("content", [b"", b"hello\n", b"\x7fELF\x00\x01", b'{"loss": 1}\n' * 3])
def test_a_foreign_file_is_refused_by_name(read, content):
    with pytest.raises(UserError, match=r"other\.log is no log of the earlier tools"):
        read(content, "other.log")


def test_the_command_makes_a_run_that_report_reads(project):
    project.write("logs/00_gru.log", log([2.0] * 20))
    project.write("logs/01_lstm.log", log([3.0] * 20 + ["nan"]))
    project.write("logs/deep/00_gru.log", log([2.5] * 20))
    ran = project.run("import", "logs", "--run", "old")
    assert ran.code == 0 and "Imported 3 of 3 logs into runs/old." in ran.err
    report = rows.build(project.path / "runs/old")
    assert [(r.label, r.status, r.last100_loss) for r in report.rows] == [
        ("gru", "ok", 2.0),
        ("gru 2", "ok", 2.5),
        ("lstm", "diverged at step 201", None),
    ]
    assert not report.differences and any(n.startswith("Imported rows are what a log says") for n in report.notes)
    assert all(row.low is None and row.at_equal_tokens is None for row in report.rows)
    assert read_json(project.path / "runs/old/run.json", Run).kind == "imported"
    assert read_json(project.path / "runs/old/lstm/result.json", Result).status == "diverged"
    assert project.run("report", "old", "--html", "o.html").code == 0
    assert '"label":"gru 2"' in (project.path / "o.html").read_text()


def test_a_loss_whose_perplexity_no_number_holds_is_reported_in_every_form(project):
    project.write("logs/high.log", log([720.0] * 20).replace("grad 1.50", "grad nan"))
    project.write("logs/higher.log", log(["3.0e+38"] * 20))
    project.write("logs/highest.log", log(["1.0e+308"] * 20))
    ran = project.run("import", "logs", "--run", "old")
    assert ran.code == 0 and "Traceback" not in ran.err and "Skipped" not in ran.out

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    table = json.loads(project.run("report", "old", "--json").out, parse_constant=refuse)["rows"]
    assert [(row["label"], row["perplexity"]) for row in table] == [
        ("high", "Infinity"), ("higher", "Infinity"), ("highest", None)
    ]  # fmt: skip
    assert table[2]["status"].startswith("diverged") and table[0]["last100_loss"] == 720.0
    assert "| 720.0000 |  |  |  | inf |" in project.run("report", "old", "--format", "markdown").out
    assert ",720.0,inf," in project.run("report", "old", "--format", "csv").out
    page = project.run("report", "old", "--format", "html").out
    assert 'data-value="Infinity">inf<' in page and 'data-value="inf"' not in page


def test_a_log_whose_name_is_none_for_a_folder_gets_another(project):
    for name in ("previous", "é", ".x", "run.json"):
        project.write(f"logs/{name}.log", log([2.0] * 20))
    assert project.run("import", "logs", "--run", "old").code == 0
    found = {path.name for path in (project.path / "runs/old").iterdir() if path.is_dir()}
    assert found == {"log_previous", "log_", "log_.x", "log_run.json"}


def test_foreign_files_are_named_counted_and_make_the_command_fail(project):
    project.write("logs/a.log", log([2.0] * 20))
    project.write("logs/b.log", "nothing of the kind\n")
    ran = project.run("import", "logs", "--run", "old", "--json")
    assert ran.code == 1 and "Skipped: logs/b.log is no log" in ran.err and "1 of 2 files are no logs" in ran.err
    assert '"label": "a"' in ran.out and "Imported 1 of 2 logs" in ran.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere"], "nowhere does not exist"),
        (["empty"], "There is no *.log file in empty"),
        (["b.log"], "None of the 1 files is a log of the earlier tools"),
        (["a.log", "--run", "../x"], "not a plain folder name"),
        (["a.log", "--run", "taken"], "taken exists"),
    ],
)
def test_bad_input(project, arguments, says):
    project.write("a.log", log([2.0] * 20))
    project.write("b.log", "x\n")
    project.write("runs/taken/x", "")
    (project.path / "empty").mkdir()
    ran = project.run("import", *arguments)
    assert ran.code == 2 and says in ran.err
