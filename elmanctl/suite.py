"""Suites: which models to compare, at which size and under which one training block. Data, not code.

* A suite is a YAML file: `description`, `params` or a `dim` for each row, `depth`, `tolerance`, `align`, `relaxed`, `matched`,
  `device`, `budget`, `training`, `seeds`, `gpus_per_trial` (ranks.py) and `rows` of {model, label, options, dim, depth, align}.
* `seeds: 3` runs each row with the training block's seed and the two after it, `seeds: [1, 7]` with these (seeds.py).
* Rows are sized by counting real models; one further from `params` than `tolerance` stops a suite that does not say `matched: false`.
"""

import importlib.util
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

import elmanctl
from elmanctl import dims
from elmanctl.errors import UserError, did_you_mean
from elmanctl.names import slug, unusable
from elmanctl.records import Budget, Training, Trial
from elmanctl.sizes import parse_count, parse_share, short_count, short_share
from elmanctl.suite_file import read, waived
from elmanctl.variant import Spec, check_relaxed


@dataclass(frozen=True)
class Row:
    """One row, its model resolved. None: `dim` is to be sized, `seed` is the training block's, `align` the suite's. `group`: what seeds share."""

    label: str
    spec: Spec
    dim: int | None
    depth: int
    seed: int | None = None
    group: str = ""
    align: int | None = None


@dataclass(frozen=True)
class Suite:
    """A loaded suite. `params` is the common budget, None where there is none; `relaxed` includes `dim` where `align` asks for it."""

    name: str
    path: Path
    description: str
    params: int | None
    depth: int
    tolerance: float
    align: int | None
    relaxed: tuple[str, ...]
    matched: bool
    device: str
    budget: Budget
    training: Training
    rows: tuple[Row, ...]
    ranks: int = 1


@dataclass(frozen=True)
class Sized:
    """A row with its size, or with the reason why it cannot be built here."""

    row: Row
    size: dims.Size | None = None
    relaxed: tuple[str, ...] = field(default=())
    problem: str = ""


def folders() -> list[Path]:
    """Return where suites are looked for, first match first: ./suites, those of plugins, those shipped."""
    from elmanctl.plugins.registry import registry

    found = [Path("suites"), *(Path(path) for given in registry().hook.elmanctl_suites() for path in given)]
    checkout = Path(elmanctl.__file__).parent.parent / "suites"
    packaged = importlib.util.find_spec("elmanctl_suites")
    if packaged is not None and packaged.submodule_search_locations:
        found += map(Path, packaged.submodule_search_locations)
    elif checkout.is_dir():
        found.append(checkout)
    return list({folder.resolve(): folder for folder in reversed(found) if folder.is_dir()}.values())[::-1]


def available() -> dict[str, Path]:
    """Return every suite that a name finds: name -> file."""
    found: dict[str, Path] = {}
    for folder in folders():
        for path in sorted(folder.glob("*.yaml")):
            found.setdefault(path.stem, path)
    return found


def find(name: str) -> Path:
    """Return the file of a suite, given by name or by path.

    Raises:
        UserError: when there is none.
    """
    if name.endswith((".yaml", ".yml")) or "/" in name:
        path = Path(name)
        if not path.is_file():
            raise UserError(f"Suite file {name} does not exist. `elmanctl suites` lists the suites that a name finds.")
        return path
    known = available()
    if name not in known:
        raise UserError(
            f"Unknown suite {name}.{did_you_mean(name, known)} `elmanctl suites` lists all {len(known)}; a path to a .yaml file works too."
        )
    return known[name]


def load(name: str, repeats: int | None = None) -> Suite:
    """Load a suite by name or path, with `repeats` seeds of each row in place of its own: read, check, resolve models, build nothing.

    Raises:
        UserError: naming the file and the key or row at fault.
    """
    from elmanctl import seeds
    from elmanctl.plugins.registry import registry

    path = find(name)
    file = read(path)
    relaxed = waived(file.relaxed, file.align)
    rows: dict[str, Row] = {}
    for number, given in enumerate(file.rows):
        try:
            spec = registry().resolve(given.model, given.options)
            spec.check(given.dim, waived(relaxed, given.align))
        except UserError as error:
            raise UserError(f"{path}: rows[{number}]: {error}") from None
        label = given.label or spec.name
        folder = slug(label)
        if wrong := unusable(label, rows[folder].label if folder in rows else None):
            raise UserError(f"{path}: rows[{number}]: {wrong}")
        rows[folder] = Row(label, spec, given.dim, given.depth or file.depth, align=given.align)
    check_relaxed(f"{path}: relaxed", file.relaxed, [row.spec for row in rows.values()])
    suite = Suite(
        name=path.stem,
        path=path,
        description=file.description,
        params=None if file.params is None else parse_count(file.params, f"{path}: params"),
        depth=file.depth,
        tolerance=parse_share(file.tolerance, f"{path}: tolerance"),
        align=file.align,
        relaxed=relaxed,
        matched=file.matched,
        device=file.device,
        budget=file.budget,
        training=file.training,
        rows=tuple(rows.values()),
        ranks=file.gpus_per_trial,
    )
    return seeds.expanded(suite, file.seeds if repeats is None else repeats)


def resized(
    suite: Suite,
    params: int | None = None,
    depth: int | None = None,
    tolerance: float | None = None,
    align: int | None = None,
) -> Suite:
    """Return a suite at another budget, depth, tolerance or step of widths; None keeps the suite's own.

    A new budget, depth or step makes the widths in the file meaningless, so that every row is searched anew.
    Raises:
        UserError: where rows would have to be searched but there is no budget.
    """
    anew = (params, depth, align) != (None, None, None)
    if anew and params is None and suite.params is None:
        raise UserError(f"{suite.name} has no common budget, so its rows cannot be searched anew. Add --params.")
    rows = suite.rows
    if anew:
        rows = tuple(replace(row, dim=None, depth=depth or row.depth, align=align or row.align) for row in rows)
    return replace(
        suite,
        params=params or suite.params,
        depth=depth or suite.depth,
        tolerance=suite.tolerance if tolerance is None else tolerance,
        align=align or suite.align,
        relaxed=waived(suite.relaxed, align),
        rows=rows,
    )


def sized(suite: Suite) -> list[Sized]:
    """Size every row: count the model at its `dim`, or search the width nearest to the suite's `params`.

    A row whose package is absent is returned with that as its problem; the others do not suffer.
    Raises:
        UserError: for a budget that no legal width meets.
    """
    from elmanctl import seeds

    def size(row: Row) -> Sized:
        relaxed = waived(suite.relaxed, row.align)
        if missing := ", ".join(row.spec.variant.missing()):
            why = f"{row.spec.name} needs {missing}, which cannot be imported here. Install: {row.spec.variant.install}"
            return Sized(row, problem=why)
        if row.dim is not None:
            return Sized(row, dims.size(row.spec, row.dim, row.depth), relaxed)
        fit = dims.search(row.spec, suite.params, row.depth, suite.tolerance, row.align or suite.align, relaxed)
        return Sized(row, fit.nearest, relaxed)

    try:
        return seeds.once_a_group(suite.rows, size)
    except UserError as error:
        raise UserError(f"{suite.path}: {error}") from None


def check_sizes(suite: Suite, rows: list[Sized]) -> None:
    """Stop a matched suite in which a row misses the common size.

    Raises:
        UserError: listing the rows beyond the tolerance.
    """
    if not suite.matched:
        return
    off = [
        f"{s.row.label} {s.size.dim}x{s.size.depth} has {short_count(s.size.params)} ({s.size.error(suite.params):+.1%})"
        for s in rows
        if s.size and s.row.group in ("", s.row.label) and abs(s.size.error(suite.params)) > suite.tolerance
    ]
    if off:
        raise UserError(
            f"{suite.path}: {'; '.join(off)}: further than {short_share(suite.tolerance)} from {short_count(suite.params)} parameters, so the "
            "comparison would be unfair. Set other dims, a finer align, a wider tolerance, or matched: false, which the report then says."
        )


def trial(suite: Suite, sized_row: Sized, device: str, budget: Budget, training: Training) -> Trial:
    """Return the fully resolved trial of a sized row."""
    row, size = sized_row.row, sized_row.size
    own = training if row.seed is None else msgspec.structs.replace(training, seed=row.seed)
    return Trial(
        label=row.label,
        model=row.spec.name,
        dim=size.dim,
        depth=size.depth,
        params=size.params,
        budget=budget,
        training=own,
        suite=suite.name,
        device=device,
        matched=suite.matched,
        relaxed=sized_row.relaxed,
        ranks=suite.ranks,
    )
