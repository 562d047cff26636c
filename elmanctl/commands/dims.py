"""`elmanctl dims`: widths that meet a parameter budget, exact counts, and whole suites sized."""

from typing import Annotated, Any

import typer

from elmanctl import dims as counting
from elmanctl.console import note, out, print_json, print_table
from elmanctl.errors import UserError
from elmanctl.sizes import parse_count, parse_share, short_bytes, short_count, short_share

COLUMNS = ["model", "dim x depth", "parameters", "error", "state/sequence", ""]
RIGHT = ("dim x depth", "parameters", "error", "state/sequence")
STANDARD = "standard"


def register(app: typer.Typer) -> None:
    """Add the verb `dims`."""

    @app.command()
    def dims(
        names: Annotated[list[str] | None, typer.Argument(help="Models, with options in the name or by -o.")] = None,
        params: Annotated[
            str | None, typer.Option("--params", help="Parameter budget: 100M, 1.27B, 98838400. Default 100M.")
        ] = None,
        depth: Annotated[
            int | None, typer.Option("--depth", min=1, max=counting.DEEPEST, help="Number of layers. Default 20.")
        ] = None,
        dim: Annotated[int | None, typer.Option("--dim", min=1, help="Count at this width; no search.")] = None,
        tolerance: Annotated[
            str | None, typer.Option("--tolerance", help="How far from the budget is near enough. Default 6%.")
        ] = None,
        align: Annotated[
            int | None, typer.Option("--align", min=1, help="Step of the widths, in place of the method's 128.")
        ] = None,
        standard: Annotated[bool, typer.Option("--standard", help="Size the standard table of models.")] = False,
        suite: Annotated[str | None, typer.Option("--suite", help="Size the rows of a suite.")] = None,
        option: Annotated[list[str] | None, typer.Option("-o", help="key=value, for every model named.")] = None,
        json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")] = False,
    ) -> None:
        """Find the widths that meet a parameter budget, by counting real models on the meta device."""
        if bool(names) + standard + (suite is not None) != 1:
            raise UserError("Give model names, or --standard, or --suite NAME: one of the three.")
        budget = parse_count(params) if params is not None else None
        share = parse_share(tolerance) if tolerance is not None else None
        if names:
            show_models(names, option or [], budget, depth, dim, share, align, json)
            return
        if dim is not None or option:
            raise UserError(
                f"{'--dim' if dim is not None else '-o'} goes with model names; a suite's file sets it by row."
            )
        show_suite(suite or STANDARD, budget, depth, share, align, json)


def show_models(
    names: list[str],
    option: list[str],
    params: int | None,
    depth: int | None,
    dim: int | None,
    tolerance: float | None,
    align: int | None,
    json: bool,
) -> None:
    """Print the fit of each model, or its count at one width."""
    from elmanctl.options import parse_options
    from elmanctl.plugins.registry import registry

    options = parse_options(option)
    specs = [registry().resolve(name, options) for name in names]
    depth = depth or counting.DEPTH
    share = counting.TOLERANCE if tolerance is None else tolerance
    if dim is not None:
        if align is not None:
            raise UserError("--align steps through widths and --dim names one: give one of them.")
        if tolerance is not None and params is None:
            raise UserError(
                "--tolerance is of a budget, and --dim counts without one: give --params too, or leave it out."
            )
        found = []
        for spec in specs:
            # A count is no comparison, so only what the kernel cannot run is refused.
            spec.check(dim, relaxed=("dim",))
            found.append((spec.name, counting.size(spec, dim, depth)))
        if json:
            print_json([{"model": name, **size_record(size, params, share)} for name, size in found])
        else:
            print_table(COLUMNS, [row(name, size, params, share) for name, size in found], right=RIGHT)
        return
    target = params or parse_count("100M")
    fits = [counting.search(spec, target, depth, share, align) for spec in specs]
    if json:
        print_json([fit_record(fit) for fit in fits])
        return
    rows = []
    for fit in fits:
        for size in (fit.below, fit.above):
            if size is not None:
                shown = row(fit.model, size, target, share)
                rows.append(shown if size == fit.nearest else [*shown[:-1], ""])
    print_table(COLUMNS, rows, title=f"{short_count(target)} parameters at depth {depth}", right=RIGHT)
    for spec, fit in zip(specs, fits, strict=True):
        if align is None and (step := counting.finer(spec, fit, depth)):
            note(
                f"{spec.name}: --align {step} comes within {short_share(share)}; widths then are not all multiples of 128."
            )


def row(name: str, size: counting.Size, target: int | None, tolerance: float) -> list[Any]:
    """Return the cells of one width, in the order of COLUMNS; the last says whether the budget is met."""
    error = None if target is None else size.error(target)
    verdict = (
        ""
        if error is None
        else f"nearest, {'within' if abs(error) <= tolerance else 'NOT within'} {short_share(tolerance)}"
    )
    shown = None if error is None else f"{error:+.1%}"
    return [name, f"{size.dim}x{size.depth}", f"{size.params:,}", shown, short_bytes(size.state_bytes), verdict]


def size_record(size: counting.Size | None, target: int | None, tolerance: float) -> dict[str, Any] | None:
    """Return one width as plain data; errors are signed shares of the budget."""
    if size is None:
        return None
    record = {"dim": size.dim, "depth": size.depth, "params": size.params, "state_bytes": size.state_bytes}
    if target is not None:
        record |= {"error": size.error(target), "within": abs(size.error(target)) <= tolerance}
    return record


def fit_record(fit: counting.Fit) -> dict[str, Any]:
    """Return a fit as plain data."""
    sizes = {key: size_record(getattr(fit, key), fit.target, fit.tolerance) for key in ("below", "nearest", "above")}
    return {
        "model": fit.model,
        "target": fit.target,
        "tolerance": fit.tolerance,
        "within": fit.within,
        **sizes,
    }


def show_suite(
    name: str, params: int | None, depth: int | None, tolerance: float | None, align: int | None, json: bool
) -> None:
    """Print a suite sized, at another budget, depth, tolerance or step where these are given."""
    from elmanctl import seeds
    from elmanctl import suite as suites

    suite = suites.resized(suites.load(name), params, depth, tolerance, align)
    rows = seeds.first_of_each(suites.sized(suite), lambda sized: sized.row)
    if json:
        print_json(sized_record(suite, rows))
        return
    print_sized(suite, rows)


def sized_record(suite, rows) -> dict[str, Any]:
    """Return a sized suite as plain data."""
    return {
        "suite": suite.name,
        "file": str(suite.path),
        "description": suite.description,
        "params": suite.params,
        "tolerance": suite.tolerance,
        "matched": suite.matched,
        "align": suite.align,
        "device": suite.device,
        "budget": suite.budget,
        "training": suite.training,
        "rows": [
            {
                "label": s.row.label,
                "model": s.row.spec.name,
                "align": s.row.align,
                "problem": s.problem,
                **(size_record(s.size, suite.params, suite.tolerance) or {"dim": s.row.dim, "depth": s.row.depth}),
            }
            for s in rows
        ],
    }


def print_sized(suite, rows) -> None:
    """Print a sized suite: its rows, the spread of their counts, and whether that is what the suite promises."""
    table = []
    for s in rows:
        label = s.row.label if s.row.label == s.row.spec.name else f"{s.row.label} ({s.row.spec.name})"
        if s.size is None:
            table.append([label, f"{s.row.dim or '?'}x{s.row.depth}", None, None, None, "cannot be built here"])
            continue
        cells = row(label, s.size, suite.params, suite.tolerance)
        said = "" if cells[-1].startswith("nearest, within") else cells[-1].removeprefix("nearest, ")
        table.append([*cells[:-1], ", ".join(filter(None, (said, s.row.align and f"align {s.row.align}")))])
    print_table(COLUMNS, table, title=f"{suite.name}: {suite.description}", right=RIGHT)
    for problem in dict.fromkeys(s.problem for s in rows if s.problem):
        out().print(problem, markup=False)
    counts = [s.size.params for s in rows if s.size]
    if len(counts) > 1:
        spread = f"{short_count(min(counts))} to {short_count(max(counts))} ({max(counts) / min(counts) - 1:.1%})"
        near = (
            f"within {short_share(suite.tolerance)} of {short_count(suite.params)}"
            if suite.matched
            else "matched: false"
        )
        step = "" if suite.align is None else f", align {suite.align}"
        out().print(f"Spread: {spread}; the suite says {near}{step}.", markup=False)
