"""Which options of `elmanctl bench` go together: none that is given is passed over in silence."""

import json

import pytest

from elmanctl import cli
from elmanctl.commands import bench_modes

# A value for each option that wants one.
VALUES = {
    "--gpus": "0", "--gpus-per-trial": "1", "--engine": "local", "--partition": "p", "--slurm": "a=b", "--minutes": "1", "--steps": "5",
    "--tokens": "1K", "--only": "gru", "--seeds": "2", "--batch-sizes": "1,2", "--shape": "B=3", "--sweep": "T", "--against": "E1",
    "--seconds": "9", "--run": "r", "--checkpoint-minutes": "5", "--wall-minutes": "5", "--retry-seconds": "10", "--params": "60K",
    "--on-end": "true",
}  # fmt: skip


def options():
    """Return every option of the verb, as the command line has it."""
    command = cli.make_command("bench").commands["bench"]
    return [p.opts[0] for p in command.params if p.opts[0].startswith("-") and p.name != "help"]


def call(*chosen):
    return [word for option in chosen for word in (option, *([VALUES[option]] if option in VALUES else []))]


def test_every_option_is_known_to_the_table():
    known = {*bench_modes.RUN, *bench_modes.TIMED, *bench_modes.MODES, "--params"}
    assert set(options()) == known and {o for _, allowed in bench_modes.MODES.values() for o in allowed} <= known


@pytest.mark.parametrize("mode", bench_modes.MODES)
def test_what_a_mode_does_not_take_is_refused_by_name(mine, trials, mode):
    wrong = [o for o in options() if o != mode and o not in bench_modes.MODES[mode][1]]
    assert len(wrong) > 5
    for option in wrong:
        ran = mine.run("bench", "mine", *call(mode, option))
        assert ran.code == 2 and " out. It goes with " in ran.err and not trials.seen, option
        assert option in ran.err and mode in ran.err
    several = [option for option in wrong if option not in bench_modes.MODES][:3]
    assert f"leave {', '.join(several)} out" in mine.run("bench", "mine", *call(mode, *several)).err
    assert not (mine.path / "runs").exists()


def test_the_default_of_an_option_is_no_less_given(mine, trials):
    mine.run("bench", "mine", "--run", "r")
    for more in (["--retry-seconds", "10"], ["--engine", "local"], ["--kernels"], ["--params", "7B"]):
        ran = mine.run("bench", "--resume", "r", *more)
        assert ran.code == 2 and "--resume takes everything from the run's queue" in ran.err
    ran = mine.run("bench", "r", "--resume", "--run", "r")
    assert ran.code == 2 and "Name it once" in ran.err
    assert mine.run("bench", "--resume", "--run", "r", "--on-end", "true", "--json").code == 0


@pytest.mark.parametrize("option", bench_modes.TIMED)
def test_what_belongs_to_kernels_is_said(mine, option):
    ran = mine.run("bench", "mine", *call(option))
    assert ran.code == 2 and f"{option} belongs to --kernels" in ran.err


@pytest.mark.parametrize("option", ["--checkpoint-minutes", "--wall-minutes", "--retry-seconds", "--seconds"])
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_number_that_is_none_is_refused_also_in_a_plan(mine, trials, option, value):
    for more in ([], ["--dry-run"]) if option != "--seconds" else (["--kernels"],):
        ran = mine.run("bench", "mine", option, value, *more)
        assert ran.code == 2 and f"{option} {value} is not a finite number" in ran.err
    assert not (mine.path / "runs").exists()


def test_a_suite_of_the_cpu_waits_for_no_gpu(mine, trials):
    for more in ([], ["--dry-run"]):
        ran = mine.run("bench", "mine", "--wait", *more)
        assert ran.code == 2 and "mine runs on the CPU, where nothing waits for a GPU" in ran.err and not trials.seen


def test_a_plan_takes_all_that_a_run_takes_and_its_exit_code_tells_whether_it_is_ready(mine, vouched, monkeypatch):
    chosen = [
        o for o in bench_modes.RUN if o not in ("--gpus", "--partition", "--slurm", "--wait", *bench_modes.LENGTH)
    ]
    ran = mine.run("bench", "mine", "--dry-run", *call(*chosen))
    assert ran.code == 0 and ran.err == "" and "CPU" in ran.out
    from elmanctl.variant import Variant

    monkeypatch.setattr(Variant, "missing", lambda self: ["cudnn"] if self.name == "gru" else [])
    ran = mine.run("bench", "mine", "--dry-run", "--json")
    assert ran.code == 1 and "Not ready: gru needs cudnn" in ran.err
    assert [bool(row["problem"]) for row in json.loads(ran.out)["rows"]] == [True, False]


def test_a_preflight_that_tries_nothing_does_not_pass(mine, trials, box, vouched):
    ran = mine.run("bench", "mine", "--preflight-only", "--no-preflight")
    assert ran.code == 2 and "leave --no-preflight out" in ran.err
    for gpu in range(8):
        box.change(gpu, memory_used=2**34)
    ran = mine.run("bench", "big", "--gpus", "any:2", "--preflight-only")
    assert ran.code == 1 and "No step of a row was tried" in ran.err
    mine.run("bench", "mine", "--run", "r")
    ran = mine.run("bench", "mine", "--run", "r", "--preflight-only")
    assert ran.code == 0 and "No row is left to try; --again" in ran.err
