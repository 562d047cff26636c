"""Several seeds of a suite's rows: each a row of its own, under the row's name and its seed."""

from collections.abc import Callable, Iterable
from dataclasses import replace

import msgspec

from elmanctl.errors import UserError
from elmanctl.names import chosen, slug
from elmanctl.suite import Row, Sized, Suite

MOST = 1000


def expanded(suite: Suite, seeds: int | list[int]) -> Suite:
    """Return a suite that runs each row with several seeds: so many from the training block's on, or those listed.

    Raises:
        UserError: for more than MOST seeds, where a row's name is that of another row's seed, or a seed cannot be.
    """
    count = seeds if isinstance(seeds, int) else len(seeds)
    if count > MOST:
        raise UserError(
            f"{suite.path}: {count:,} seeds of each row are more than the {MOST:,} that a run takes; each is a training of its own. Give fewer."
        )
    first = suite.training.seed
    listed = [first + i for i in range(seeds)] if isinstance(seeds, int) else seeds
    if not listed:
        raise UserError(f"{suite.path}: {seeds} seeds leave nothing to run. Give at least 1.")
    if len(listed) == 1 and listed[0] == first:
        return suite
    rows: dict[str, Row] = {}
    # All rows of one seed, then of the next: a run cut short is whole as far as it came.
    for number, seed in enumerate(listed):
        try:
            msgspec.structs.replace(suite.training, seed=seed).check()
        except UserError as error:
            raise UserError(f"{suite.path}: seeds: {error}") from None
        for row in suite.rows:
            label = f"{row.label} seed {seed}" if number else row.label
            if slug(label) in rows:
                raise UserError(
                    f"{suite.path}: the name {label} is that of a seed of another row. Choose another label."
                )
            rows[slug(label)] = replace(row, label=label, seed=seed, group=row.label)
    return replace(suite, rows=tuple(rows.values()))


def once_a_group(rows: Iterable[Row], size: Callable[[Row], Sized]) -> list[Sized]:
    """Return each row with its size, which the seeds of one row share."""
    found: dict[str, Sized] = {}
    for row in rows:
        name = row.group or row.label
        found[row.label] = replace(found[name] if name in found else size(row), row=row)
    return list(found.values())


def choose(suite: Suite, names: list[str]) -> set[str]:
    """Return the labels of the rows that are named, by label, by model, or all seeds of a row by its plain name; all without a name.

    Raises:
        UserError: for a name that no row has.
    """
    labels = [row.label for row in suite.rows]
    rows = chosen(
        names, suite.rows, lambda row: (row.label, row.group, row.spec.name), f"{suite.name} has no such row", labels
    )
    return {row.label for row in rows}


def first_of_each(rows, row=lambda item: item) -> list:
    """Return the items whose row is the first seed of its group; `row` takes an item to its suite.Row."""
    return [item for item in rows if row(item).group in ("", row(item).label)]
