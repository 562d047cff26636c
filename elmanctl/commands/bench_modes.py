"""Which options of `elmanctl bench` go together: each way to call it takes those that are listed, and no other."""

import math

import typer

from elmanctl.errors import UserError

PLACE = ("--gpus", "--gpus-per-trial", "--engine")
ROWS = ("--only", "--seeds", "--unverified", "--run", "--again", "--json")
LENGTH = ("--minutes", "--steps", "--tokens")
CARE = ("--checkpoint-minutes", "--wall-minutes", "--retry-seconds", "--no-preflight", "--on-end")
# All that a run takes; a plan of it takes the same.
RUN = (*PLACE, "--partition", "--slurm", "--wait", *ROWS, *LENGTH, *CARE)
TIMED = ("--shape", "--sweep", "--against", "--seconds")
# An option that makes another thing of the call -> what that is, and what it takes besides.
MODES = {
    "--resume": ("takes everything from the run's queue", ("--run", "--on-end", "--json")),
    "--kernels": ("times passes, not training", ("--gpus", *TIMED, "--run", "--json")),
    "--preflight-only": ("runs one step of each row now, and nothing else", (*PLACE, *ROWS, "--params")),
    "--dry-run": ("shows the plan of a run", (*RUN, "--batch-sizes", "--params")),
    "--batch-sizes": (
        "makes a table of so many steps of each row, with one seed",
        tuple(o for o in (*RUN, "--dry-run", "--params") if o not in (*LENGTH, "--seeds")),
    ),
}


def check(context: typer.Context) -> None:
    """Refuse options that the call would not heed.

    Raises:
        UserError: naming them, and what goes with the option that they do not go with.
    """
    options = given(context)
    for mode, (what, allowed) in MODES.items():
        if mode in options and (wrong := [o for o in options if o != mode and o not in allowed]):
            raise UserError(f"{mode} {what}: leave {', '.join(wrong)} out. It goes with {', '.join(allowed)}.")
    if any(mode in options for mode in MODES):
        return
    if wrong := [o for o in options if o in TIMED]:
        raise UserError(f"{' and '.join(wrong)} belongs to --kernels. Add --kernels, or leave it out.")


def given(context: typer.Context) -> list[str]:
    """Return the options that are on the command line, also those that say what is the default."""
    found = []
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name)
        if source is not None and source.name == "COMMANDLINE" and parameter.opts[0].startswith("-"):
            found.append(parameter.opts[0])
    return found


def finite(parameter: typer.CallbackParam, value: float | None) -> float | None:
    """Return the value of an option that has to be a number: no clock waits for `nan` or `inf`.

    Raises:
        UserError: for such a value.
    """
    if value is not None and not math.isfinite(value):
        raise UserError(f"{parameter.opts[0]} {value} is not a finite number, and nothing can wait for it. Give one.")
    return value
