"""`elmanctl doctor`: what this machine has, what is missing, and how to mend it."""

import dataclasses
from typing import Annotated

import typer

from elmanctl.console import note, print_json, print_table

COLOURS = {"ok": "green", "note": "yellow", "problem": "red"}


def register(app: typer.Typer) -> None:
    """Add the verb `doctor`."""

    @app.command()
    def doctor(
        json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")] = False,
    ) -> int:
        """Show what this machine has and lacks, and each fix.

        Looks at Python, torch, compilers, GPUs, packages, data and cache. Exit 1 when something essential is missing.
        """
        from elmanctl import machine

        found = machine.findings()
        bad = [f for f in found if f.state == machine.PROBLEM]
        if json:
            variables = [{"name": name, "meaning": text} for name, text in machine.VARIABLES.items()]
            print_json({"ok": not bad, "findings": [dataclasses.asdict(f) for f in found], "variables": variables})
        else:
            from rich.text import Text

            print_table(
                ["what", "state", "found", "fix"],
                [[f.what, Text(f.state, COLOURS[f.state]), f.found, f.fix] for f in found],
            )
            if bad:
                note(f"The tool cannot work here yet: {', '.join(f.what for f in bad)}.")
        return 1 if bad else 0
