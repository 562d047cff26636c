"""The command line: global flags, verbs, and errors turned into messages and exit codes.

Exit codes: 0 all is well, 1 a check failed, 2 a mistake in the request, 130 interrupted.
Importing this module does not import torch; each verb imports what it needs when it runs.
"""

import errno
import importlib
import os
import sys
from typing import Annotated

import typer

from elmanctl import __version__
from elmanctl.errors import CheckFailed, UserError
from elmanctl.interrupt import INTERRUPTED, install

# click.ClickException, the base of all usage errors; newer releases of typer carry a click of their own.
UsageProblem = typer.BadParameter.__mro__[2]

VERBS = (
    "new",
    "list",
    "build",
    "verify",
    "receipt",
    "dims",
    "data",
    "train",
    "suites",
    "bench",
    "report",
    "import",
    "runs",
    "gpus",
    "doctor",
)


FREE = "Free some space (elmanctl doctor shows the build cache and its disk)"
ALLOW = "Check who may write there, or choose another folder"
# Failures to write anywhere, also where no caller expects one: what to do next.
UNWRITABLE = {
    errno.ENOSPC: FREE,
    errno.EDQUOT: FREE,
    errno.EFBIG: "Raise the limit on file sizes (ulimit -f)",
    errno.EROFS: ALLOW,
    errno.EACCES: ALLOW,
}


def _version(value: bool) -> None:
    if value:
        sys.stdout.write(f"elmanctl {__version__}\n")
        raise typer.Exit


def global_flags(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error in the request.")] = False,
    no_local: Annotated[
        bool, typer.Option("--no-local", help="Ignore variants/ folders of the current directory; they run code.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and stop.")
    ] = False,
) -> None:
    """From a recurrence in one folder to a number that can be believed: new, build, verify, dims, train, bench, report."""
    if debug:
        os.environ["ELMANCTL_DEBUG"] = "1"
    if no_local:
        os.environ["ELMANCTL_NO_LOCAL"] = "1"


def make_app(only: str | None = None) -> typer.Typer:
    """Build the Typer application: the verbs of elmanctl/commands, then those of plugins; or one verb alone, which loads faster."""
    app = typer.Typer(
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(global_flags)
    for verb in VERBS if only is None else (only,):
        importlib.import_module(f"elmanctl.commands.{verb}").register(app)
    if only is None:
        from elmanctl.plugins.registry import registry

        registry().hook.elmanctl_commands(app=app)
    return app


def make_command(only: str | None = None):
    """Build the command line: make_app's verbs, in the order of VERBS, then those of plugins."""
    command = typer.main.get_command(make_app(only))
    place = {verb: number for number, verb in enumerate(VERBS)}  # Typer lists groups last, whatever their place
    command.commands = dict(sorted(command.commands.items(), key=lambda item: place.get(item[0], len(place))))
    return command


def main() -> None:
    """Run the command line and exit with its code."""
    install()
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code."""
    if "--no-local" in arguments:  # needed before the verbs of local plugins are collected
        os.environ["ELMANCTL_NO_LOCAL"] = "1"
    try:
        code = _invoke(arguments)
        sys.stdout.flush()  # here, where a closed pipe is still caught
        return code
    except UserError as error:
        if os.environ.get("ELMANCTL_DEBUG"):
            raise
        return _say(error, 2)
    except CheckFailed as error:
        return _say(error, 1)
    except typer.Exit as error:
        return error.exit_code
    except UsageProblem as error:
        error.show()
        return 2
    except (KeyboardInterrupt, typer.Abort):
        return _say(INTERRUPTED, 130)
    except BrokenPipeError:
        _drop_output()
        return 141
    except OSError as error:
        if error.errno not in UNWRITABLE or os.environ.get("ELMANCTL_DEBUG"):
            raise
        _drop_output()
        what = error.filename or "Writing failed"
        return _say(f"{what}: {error.strerror}. {UNWRITABLE[error.errno]} and try again.", 2)


def _invoke(arguments: list[str]) -> int:
    """Parse and run. Typer's own main would turn Ctrl-C and a closed pipe into exit codes of its own."""
    word = next((a for a in arguments if not a.startswith("-")), None)
    command = make_command(word if word in VERBS else None)
    if "_ELMANCTL_COMPLETE" in os.environ:  # the shell asks for completions
        command.main(arguments, prog_name="elmanctl")
    with command.make_context("elmanctl", arguments) as context:
        return command.invoke(context) or 0


def _drop_output() -> None:
    """Let what stdout cannot take go nowhere: at its end the interpreter would fail to write it once more."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say(error: object, code: int) -> int:
    sys.stderr.write(f"{error}\n")
    return code
