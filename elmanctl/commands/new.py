"""`elmanctl new`: a variant of your own, copied from another one or from the template."""

from typing import Annotated

import typer

from elmanctl.console import note, print_json, print_table
from elmanctl.errors import UserError
from elmanctl.plugins.registry import registry


def register(app: typer.Typer) -> None:
    """Add the verb `new`."""

    @app.command()
    def new(
        name: Annotated[str, typer.Argument(help="Name of the new variant, for example X9.")],
        source: Annotated[
            str | None, typer.Option("--from", help="Variant to copy. Without it: a minimal recurrence that verifies.")
        ] = None,
        dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the files and write nothing.")] = False,
        json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")] = False,
    ) -> None:
        """Make a variant: a renamed copy of another, or the template.

        Names in files and text are replaced as whole tokens; receipts and caches stay behind. Nothing is written unless the
        result loads.
        """
        from elmanctl import scaffold

        known = registry()
        original = scaffold.source_variant(known, source) if source else None
        scaffold.check_name(known, name, original.folder if original else scaffold.TEMPLATE)
        files = scaffold.plan_copy(original, name) if original else scaffold.plan_template(name)
        folder = scaffold.destination() / scaffold.stem_of(name)
        if folder.exists():
            raise UserError(f"{folder} exists already. Choose another name, or remove it first.")
        if not dry_run:
            scaffold.write(files, folder, name)
            registry.cache_clear()
        if json:
            rows = [{"file": f.path, "changed_lines": f.changed} for f in files]
            print_json({"name": name, "folder": str(folder), "written": not dry_run, "files": rows})
            return
        print_table(
            ["file", "changed lines"], [[str(folder / f.path), f.changed] for f in files], right=("changed lines",)
        )
        if dry_run:
            note("Nothing was written (--dry-run).")
        else:
            note(f"{name} is ready. Edit {folder}, then: elmanctl verify {name}")
            note(f'To ship it, add to your pyproject.toml: {folder.name} = "elmanctl_variants.{folder.name}:variant"')
