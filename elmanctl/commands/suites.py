"""`elmanctl suites`: the suites that a name finds, or one of them sized."""

from typing import Annotated

import typer

from elmanctl.console import note, print_json, print_table
from elmanctl.errors import UserError


def register(app: typer.Typer) -> None:
    """Add the verb `suites`."""

    @app.command()
    def suites(
        name: Annotated[str | None, typer.Argument(help="A suite to show with its rows sized.")] = None,
        json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")] = False,
    ) -> None:
        """List the suites, or show one with every row sized."""
        if name is not None:
            from elmanctl.commands.dims import show_suite

            show_suite(name, None, None, None, None, json)
            return
        show_all(json)


def show_all(json: bool) -> None:
    """Print every suite that a name finds; one that cannot be loaded is listed with the reason."""
    from elmanctl import seeds
    from elmanctl import suite as suites
    from elmanctl.report.facts import budget_text
    from elmanctl.sizes import short_count

    found, broken = [], []
    for name, path in suites.available().items():
        try:
            found.append(suites.load(str(path)))
        except UserError as error:
            broken.append({"name": name, "file": str(path), "problem": str(error)})
    if json:
        rows = [
            {
                "name": s.name,
                "file": str(s.path),
                "description": s.description,
                "rows": [row.label for row in s.rows],
                "params": s.params,
                "matched": s.matched,
                "device": s.device,
                "budget": s.budget,
            }
            for s in found
        ]
        print_json({"suites": rows, "problems": broken})
        return
    rows = [
        [
            s.name,
            len(seeds.first_of_each(s.rows)),
            short_count(s.params) + ("" if s.matched else " unmatched"),
            budget_text(s.budget),
            s.device,
            s.description,
        ]
        for s in found
    ]
    print_table(["suite", "rows", "params", "budget", "device", "description"], rows, right=("rows",))
    for entry in broken:
        note(f"Not usable: {entry['problem']}")
