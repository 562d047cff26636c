"""What `elmanctl bench` reads from its command line besides the suite, and the plan that --dry-run shows."""

from elmanctl.console import print_json, print_table
from elmanctl.errors import CheckFailed, UserError
from elmanctl.sizes import short_count


def asked_of_slurm(engine: str, partition: str | None, options: list[str], local: dict[str, object]):
    """Return what is asked of Slurm, None for the local engine.

    Args:
        local: options that choose this machine's GPUs, with what was given.
    Raises:
        UserError: for an unknown engine, options of the other one, and what Slurm cannot give.
    """
    if engine not in ("local", "slurm"):
        raise UserError(f"--engine {engine}: there are local and slurm.")
    if engine == "local":
        if partition is not None or options:
            raise UserError("--partition and --slurm belong to --engine slurm. Add it, or leave them out.")
        return None
    if wrong := [option for option, value in local.items() if value]:
        raise UserError(
            f"With --engine slurm, Slurm chooses the GPUs and starts the trials: leave {', '.join(wrong)} out."
        )
    from elmanctl.queue.slurm import wanted

    return wanted(partition, options)


def parse_batches(text: str) -> list[int]:
    """Read `8,16,32`."""
    try:
        batches = [int(part) for part in text.split(",")]
    except ValueError:
        batches = []
    if not batches or min(batches) < 1:
        raise UserError(f"--batch-sizes {text}: give positive whole numbers, such as 8,16,32,64.")
    return list(dict.fromkeys(batches))


def show_plan(plan, json: bool) -> None:
    """Print what a run would do: rows, sizes, devices, receipts, and what stands in its way.

    Raises:
        CheckFailed: where anything does, or a row cannot be built here: the run would not start, or not end well.
    """
    from elmanctl import bench as benching
    from elmanctl.report.rows import budget_text

    waiting = [planned for planned in plan.rows if planned.trial is not None]
    place, share = {}, plan.suite.ranks if plan.pool else 1
    names = [", ".join(plan.devices[i : i + share]) for i in range(0, len(plan.devices) - share + 1, share)]
    for number, planned in enumerate(waiting):
        place[planned.row.label] = (names[number] if number < len(names) else "when one is free") if names else "none"
    rows = [
        {
            "label": planned.row.label,
            "model": planned.row.model,
            "dim": planned.row.dim,
            "depth": planned.row.depth,
            "params": planned.row.params,
            "device": place.get(planned.row.label, ""),
            "budget": budget_text(planned.trial.budget) if planned.trial else "",
            "batch": planned.trial.training.batch if planned.trial else None,
            "execution": planned.execution(plan.target),
            "receipt": benching.receipt(planned, plan.target),
            "problem": planned.row.problem,
        }
        for planned in plan.rows
    ]
    if json:
        suite = plan.suite
        print_json(
            {
                "suite": suite.name,
                "params": suite.params,
                "matched": suite.matched,
                "rows": rows,
                "obstacles": plan.obstacles,
            }
        )
    else:
        print_plan(plan.suite, rows)
    problems = [*(r["problem"] for r in rows if r["problem"]), *plan.obstacles]
    if problems:
        raise CheckFailed("\n".join(f"Not ready: {text}" for text in dict.fromkeys(problems)))


def print_plan(suite, rows: list[dict]) -> None:
    """Print the rows of a plan as a table."""
    table = [
        [
            r["label"] if r["label"] == r["model"] else f"{r['label']} ({r['model']})",
            f"{r['dim'] or '?'}x{r['depth']}",
            short_count(r["params"]),
            r["device"],
            r["budget"],
            r["execution"],
            r["receipt"],
            "cannot be built here" if r["problem"] else None,
        ]
        for r in rows
    ]
    columns = ["row", "dim x depth", "params", "device", "budget", "execution", "receipt", ""]
    print_table(columns, table, title=f"{suite.name}: {suite.description}", right=("dim x depth", "params"))
