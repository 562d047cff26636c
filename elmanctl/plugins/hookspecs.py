"""Every hook a plugin may implement. The entry-point group is `elmanctl`; the value is any object with hook implementations."""

from elmanctl.plugins import hookspec


@hookspec
def elmanctl_variants():
    """Return a list of Variant. A Variant implements this itself, so an entry point may name it directly."""


@hookspec
def elmanctl_commands(app):
    """Add verbs to the Typer application `app`."""


@hookspec
def elmanctl_suites():
    """Return a list of folders (pathlib.Path) that hold suite files (`*.yaml`)."""


@hookspec
def elmanctl_trial_finished(trial, result, folder):
    """React to a finished trial, whatever its status: its records.Trial, its records.Result, and the folder (pathlib.Path) of its records.

    An implementation may leave out arguments that it does not need.
    """
