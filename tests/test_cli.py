"""Global flags, exit codes, and what the command line must not cost."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer

from elmanctl import __version__, cli
from elmanctl.errors import CheckFailed, UserError


def test_every_verb_is_in_the_help_in_order(project):
    ran = project.run("--help")
    assert ran.code == 0
    listed = [line.split()[0] for line in ran.out.split("Commands:")[1].splitlines() if line.strip()]
    assert [word for word in listed if word in cli.VERBS] == list(cli.VERBS)


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_explains_itself(project, verb):
    ran = project.run(verb, "--help")
    assert ran.code == 0
    assert ran.out.startswith(f"Usage: elmanctl {verb}") and len(ran.out.splitlines()) > 4


def test_version(project):
    assert project.run("--version").out == f"elmanctl {__version__}\n"


def test_no_arguments_show_the_help(project):
    ran = project.run()
    assert "Usage: elmanctl" in ran.out + ran.err


@pytest.mark.parametrize("arguments", [["lst"], ["list", "--jsn"], ["list", "a", "b"], ["--nonsense"]])
def test_a_mistyped_request_exits_2(project, arguments):
    ran = project.run(*arguments)
    assert ran.code == 2
    assert ran.out == ""
    assert "No such" in ran.err or "unexpected" in ran.err
    assert "Traceback" not in ran.err


def with_verb(monkeypatch, action):
    """Replace the verbs by one that runs `action`."""
    app = typer.Typer(pretty_exceptions_enable=False)
    app.callback()(cli.global_flags)
    app.command("go")(action)
    monkeypatch.setattr(cli, "make_app", lambda only=None: app)


def raising(error):
    def action() -> None:
        raise error

    return action


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (UserError("B=1, expected 2"), 2, "B=1, expected 2\n"),
        (CheckFailed("E is wrong"), 1, "E is wrong\n"),
        (KeyboardInterrupt(), 130, "Interrupted. What was finished before is kept.\n"),
        (typer.Abort(), 130, "Interrupted. What was finished before is kept.\n"),
        (typer.Exit(3), 3, ""),
    ],
)
def test_errors_become_exit_codes(project, monkeypatch, error, code, text):
    with_verb(monkeypatch, raising(error))
    ran = project.run("go")
    assert (ran.code, ran.out, ran.err) == (code, "", text)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "place/file"),
            "place/file: No space left on device. Free some space",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), "Writing failed: No space left on device. Free some space"),
        (
            PermissionError(errno.EACCES, "Permission denied", "place"),
            "place: Permission denied. Check who may write there",
        ),
    ],
)
def test_a_disk_that_cannot_be_written_is_no_traceback_wherever_it_shows(project, monkeypatch, error, says):
    with_verb(monkeypatch, raising(error))
    ran = project.run("go")
    assert ran.code == 2 and ran.err.startswith(says) and ran.err.count("\n") == 1


def test_other_system_errors_keep_their_traceback(project, monkeypatch):
    with_verb(monkeypatch, raising(FileNotFoundError(errno.ENOENT, "No such file", "a bug")))
    with pytest.raises(FileNotFoundError):
        project.run("go")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
def test_a_result_that_cannot_be_written_to_a_full_disk_exits_2(project):
    call = [sys.executable, "-m", "elmanctl", "list", "--json"]
    with open("/dev/full", "w") as full:
        ran = subprocess.run(call, cwd=project.path, stdout=full, stderr=subprocess.PIPE, text=True)
    assert ran.returncode == 2 and ran.stderr.startswith("Writing failed: No space left on device.")
    assert ran.stderr.count("\n") == 1


def test_a_verb_may_return_its_exit_code(project, monkeypatch):
    with_verb(monkeypatch, lambda: 1)
    assert project.run("go").code == 1


def test_a_bug_keeps_its_traceback(project, monkeypatch):
    with_verb(monkeypatch, raising(RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):
        project.run("go")


def test_debug_shows_the_traceback_of_a_user_error(project, monkeypatch):
    with_verb(monkeypatch, raising(UserError("wrong")))
    with pytest.raises(UserError, match="wrong"):
        project.run("--debug", "go")


def test_ctrl_c_ends_a_real_process_with_130_and_one_line(project):
    project.write("variants/zz1/__init__.py", "import time\nopen('started', 'w').close()\ntime.sleep(60)\n")
    call = [sys.executable, "-c", "from elmanctl.cli import main; main()", "list"]
    process = subprocess.Popen(call, cwd=project.path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    while not (project.path / "started").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "", "Interrupted. What was finished before is kept.\n")


@pytest.mark.parametrize("arguments", [["list"], ["list", "--json"], ["--help"]])
def test_a_closed_pipe_is_no_traceback(project, arguments):
    read, write = os.pipe()
    os.close(read)
    call = [sys.executable, "-c", "from elmanctl.cli import main; main()", *arguments]
    with open(write, "wb") as closed:
        ran = subprocess.run(call, cwd=project.path, stdout=closed, stderr=subprocess.PIPE, text=True)
    assert (ran.returncode, ran.stderr) == (141, "")


def test_completion_answers(project):
    shell = {"_ELMANCTL_COMPLETE": "complete_bash", "COMP_WORDS": "elmanctl do", "COMP_CWORD": "1"}
    assert project.start(**shell).out.split() == ["doctor"]


LIGHT = """
import sys
from elmanctl.cli import run
code = run({arguments})
heavy = [name for name in ("torch", "numpy", "pynvml") if name in sys.modules]
sys.exit(f"imported {{heavy}}" if heavy else code)
"""


@pytest.mark.parametrize(
    "arguments", [["--help"], ["list"], ["list", "--json"], ["list", "gru"], ["new", "--help"], ["bench", "--help"]]
)
def test_looking_around_does_not_import_torch(project, arguments):
    call = [sys.executable, "-c", LIGHT.format(arguments=arguments)]
    ran = subprocess.run(call, cwd=project.path, capture_output=True, text=True, env=os.environ)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_one_verb_does_not_load_the_others(project):
    code = (
        "import sys; from elmanctl.cli import run; run(['list']); print([m for m in sys.modules if 'commands.' in m])"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=project.path, capture_output=True, text=True)
    assert ran.stdout.splitlines()[-1] == "['elmanctl.commands.list']"
