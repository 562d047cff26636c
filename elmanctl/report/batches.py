"""The batch-size table of a run: throughput and peak memory of each model against batch."""

from pathlib import Path

import msgspec

from elmanctl import plan
from elmanctl.sizes import short_bytes, short_count


class BatchCell(msgspec.Struct, frozen=True, kw_only=True):
    """One model at one batch: target tokens per second, peak memory in bytes, status."""

    label: str
    batch: int
    status: str
    tokens_per_second: float | None = None
    peak_memory_bytes: int | None = None
    message: str = ""


def build(folder: Path) -> list[BatchCell]:
    """Read the cells of a batch-size run, in the order of its rows."""
    _, outcomes = plan.outcomes(folder)
    found = []
    for outcome in outcomes:
        label, _, batch = outcome.row.label.rpartition("@")
        result = outcome.result
        found.append(
            BatchCell(
                label=label,
                batch=int(batch),
                status=result.status if result else "waiting",
                tokens_per_second=result.tokens_per_second if result else None,
                peak_memory_bytes=result.peak_memory_bytes if result else None,
                message=result.message if result else outcome.row.problem,
            )
        )
    return found


def table(cells: list[BatchCell]) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows: one row a model, one column a batch, `tok/s, peak memory` or the status in each cell."""
    batches = sorted({cell.batch for cell in cells})
    by_place = {(cell.label, cell.batch): cell for cell in cells}
    rows = [
        [label, *(_text(by_place.get((label, batch))) for batch in batches)]
        for label in dict.fromkeys(c.label for c in cells)
    ]
    return ["model", *(f"batch {batch}" for batch in batches)], rows


def _text(cell: BatchCell | None) -> str:
    if cell is None:
        return ""
    if cell.tokens_per_second is None:
        return cell.status
    return f"{short_count(round(cell.tokens_per_second))} tok/s, {short_bytes(cell.peak_memory_bytes)}"
