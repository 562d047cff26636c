"""`elmanctl import`: logs of the earlier tools become a run that `report` reads."""

import datetime
from pathlib import Path
from typing import Annotated

import typer

from elmanctl.console import note
from elmanctl.errors import CheckFailed, UserError
from elmanctl.names import check_run, problem, slug


def register(app: typer.Typer) -> None:
    """Add the verb `import`."""

    @app.command("import")
    def imports(
        logs: Annotated[list[Path], typer.Argument(help="Log files, or folders of *.log files at any depth.")],
        run: Annotated[str | None, typer.Option("--run", help="Name of the new run below runs/.")] = None,
        json: Annotated[bool, typer.Option("--json", help="Print the report as one JSON document.")] = False,
    ) -> None:
        """Read logs of the earlier tools into a run: NaN is seen, and last-100 is by steps where the lines tell it."""
        from elmanctl.report import render, rows

        check_run(run)
        paths = found(logs)
        folder, skipped = store(paths, run)
        for text in skipped:
            note(f"Skipped: {text}")
        note(f"Imported {len(paths) - len(skipped)} of {len(paths)} logs into {folder}.")
        report = rows.build(folder)
        if json:
            print(render.as_json(report), end="")
        else:
            render.print_report(report)
        if skipped:
            raise CheckFailed(f"{len(skipped)} of {len(paths)} files are no logs of the earlier tools.")


def found(given: list[Path]) -> list[Path]:
    """Return the log files that are named or lie below a named folder."""
    paths: list[Path] = []
    for path in given:
        if not path.exists():
            raise UserError(f"{path} does not exist.")
        paths += sorted(p for p in path.rglob("*.log") if p.is_file()) if path.is_dir() else [path]
    if not paths:
        raise UserError(f"There is no *.log file in {', '.join(map(str, given))}.")
    return list(dict.fromkeys(paths))


def store(paths: list[Path], run: str | None) -> tuple[Path, list[str]]:
    """Write the run, one row a log; return its folder and what was skipped, and why.

    Raises:
        UserError: where nothing could be read, or the run exists.
    """
    import msgspec

    from elmanctl import imported, plan
    from elmanctl.files import write_json
    from elmanctl.runlog import LOGGED, RESULT, Lines

    now = datetime.datetime.now().astimezone()
    folder = plan.RUNS / (run or f"imported-{now:%Y%m%d-%H%M%S}")
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} exists. Choose another --run.")
    logs, skipped = [], []
    for path in paths:
        try:
            logs.append(imported.read(path))
        except UserError as error:
            skipped.append(str(error))
    if not logs:
        raise UserError(f"None of the {len(paths)} files is a log of the earlier tools. " + " ".join(skipped[:3]))
    rows: dict[str, plan.PlannedRow] = {}
    for log in logs:
        name = f"log {log.name[:50]}" if problem(slug(log.name)) else log.name
        label, number = name, 2
        while slug(label) in rows:
            label, number = f"{name} {number}", number + 1
        place = folder / slug(label)
        rows[slug(label)] = plan.PlannedRow(
            label=label, folder=slug(label), model=log.model, depth=log.depth, dim=log.dim, params=log.params
        )
        lines = Lines(place / LOGGED)
        for line in log.lines:
            lines.append(line)
        lines.close()
        write_json(place / "import.json", msgspec.structs.replace(log, lines=()))
        write_json(place / RESULT, log.result)
    record = plan.Run(
        suite="imported",
        description=f"{len(logs)} logs of earlier tools",
        created=now.isoformat(timespec="seconds"),
        params=None,
        tolerance=1.0,
        matched=False,
        relaxed=(),
        rows=tuple(rows.values()),
        kind=plan.IMPORTED,
    )
    write_json(folder / plan.RUN, record)
    return folder, skipped
