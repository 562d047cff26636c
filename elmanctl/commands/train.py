"""`elmanctl train`: one model, from a name to a result."""

import itertools
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from elmanctl.console import note, print_json, print_table
from elmanctl.dims import DEEPEST
from elmanctl.errors import CheckFailed, UserError
from elmanctl.files import read_json, write_json
from elmanctl.records import Budget, Result, Training, Trial
from elmanctl.runlog import RESULT, TRIAL
from elmanctl.sizes import parse_count, short_bytes, short_count


def register(app: typer.Typer) -> None:
    """Add the verb `train`."""

    @app.command()
    def train(
        name: Annotated[str | None, typer.Argument(help="A model, with options in the name or by -o.")] = None,
        params: Annotated[str | None, typer.Option(help="Parameter budget: 100M, 1.27B. Or give --dim.")] = None,
        dim: Annotated[int | None, typer.Option(min=1, help="Model width.")] = None,
        depth: Annotated[int | None, typer.Option(min=1, max=DEEPEST, help="Number of layers. Default 20.")] = None,
        steps: Annotated[int | None, typer.Option(help="Budget in optimizer steps.")] = None,
        tokens: Annotated[str | None, typer.Option(help="Budget in target bytes, such as 50M.")] = None,
        minutes: Annotated[float | None, typer.Option(help="Budget in minutes of training.")] = None,
        data: Annotated[str | None, typer.Option(help="File of bytes to train on. Default data/pile.txt.")] = None,
        batch: Annotated[int | None, typer.Option(help="Rows in a batch. Default 32.")] = None,
        chunk: Annotated[int | None, typer.Option(help="Target bytes in a row. Default 512.")] = None,
        lr: Annotated[float | None, typer.Option(help="Peak learning rate. Default 3e-4.")] = None,
        seed: Annotated[int | None, typer.Option(help="Of weights and batches. Default 42.")] = None,
        device: Annotated[str | None, typer.Option(help="cpu, cuda or auto (the default).")] = None,
        no_graph: Annotated[bool, typer.Option("--no-graph", help="On CUDA, run eager; recorded.")] = False,
        checkpoint_every: Annotated[int | None, typer.Option(help="Steps between checkpoints. Default: none.")] = None,
        eval_every: Annotated[int | None, typer.Option(help="Steps between held-out losses. Default: the end.")] = None,
        checkpoint_layers: Annotated[
            int | None, typer.Option(help="Run so many layers again in the backward pass: less memory. Default: none.")
        ] = None,
        loss_chunks: Annotated[
            int | None, typer.Option(help="Take the loss in so many parts: less memory. Default: 1.")
        ] = None,
        relax: Annotated[list[str] | None, typer.Option(help="Waive the method's rule on this size: dim.")] = None,
        option: Annotated[list[str] | None, typer.Option("-o", help="key=value, an option of the model.")] = None,
        folder: Annotated[
            Path | None, typer.Option("--out", help="Folder of the run, new. Default below runs/.")
        ] = None,
        resume: Annotated[Path | None, typer.Option(help="Go on with this run from its newest checkpoint.")] = None,
        json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")] = False,
    ) -> None:
        """Train one model. The budget is one of --steps, --tokens and --minutes; the size is --params or --dim."""
        size = {"params": params, "dim": dim, "depth": depth, "relax": relax}
        budget = Budget(
            steps=steps, tokens=parse_count(tokens, "--tokens") if tokens is not None else None, minutes=minutes
        )
        given = {
            "data": data,
            "batch": batch,
            "chunk": chunk,
            "lr": lr,
            "seed": seed,
            "graph": False if no_graph else None,
            "checkpoint_every": checkpoint_every,
            "eval_every": eval_every,
            "checkpoint_layers": checkpoint_layers,
            "loss_chunks": loss_chunks,
        }
        settings = {key: value for key, value in given.items() if value is not None}
        if resume is not None:
            others = (name, *size.values(), *settings.values(), device, option, folder)
            if budget != Budget() or any(value is not None and value != [] for value in others):
                raise UserError("--resume takes everything from the run's trial.json: give the folder alone.")
            finish(*continued(resume), json=json)
            return
        if name is None:
            raise UserError("Name the model to train, for example: elmanctl train NAME --params 100M --minutes 10")
        budget.check()
        training = Training(**settings)
        training.check()
        trial = planned(name, option or [], budget, training, device or "auto", **size)
        finish(trial, started(trial, folder), False, json=json)


def planned(
    name: str,
    option: list[str],
    budget: Budget,
    training: Training,
    device: str,
    params: str | None,
    dim: int | None,
    depth: int | None,
    relax: list[str] | None,
) -> Trial:
    """Resolve the request to a trial: names, rules, size, device and data are checked here, before a folder is made."""
    from elmanctl import dims
    from elmanctl.options import parse_options
    from elmanctl.plugins.registry import registry
    from elmanctl.variant import check_relaxed

    if (params is None) == (dim is None):
        raise UserError("Give the size by one of --params (100M, say) and --dim.")
    spec = registry().resolve(name, parse_options(option))
    relaxed, depth = tuple(relax or ()), depth or dims.DEPTH
    check_relaxed("--relax", relaxed, [spec])
    spec.check(dim, relaxed)
    if params is not None:
        fit = dims.search(spec, parse_count(params), depth, relaxed=relaxed)
        if not fit.within:
            raise UserError(
                f"{spec.name}: the legal width nearest to {params} at depth {depth} is {fit.nearest.dim}, "
                f"{fit.nearest.error(fit.target):+.1%} off. Take it with --dim {fit.nearest.dim}, or change --depth."
            )
        dim = fit.nearest.dim
    from elmanctl.data import Source
    from elmanctl.device import choose

    chosen = choose(device)
    Source.open(training.data, training.batch, training.chunk, tell=False)
    return Trial(
        label=spec.name,
        model=spec.name,
        dim=dim,
        depth=depth,
        params=dims.count(spec, dim, depth),
        budget=budget,
        training=training,
        device=str(chosen),
        relaxed=relaxed,
    )


def started(trial: Trial, folder: Path | None) -> Path:
    """Make the run's folder with its trial.json.

    Raises:
        UserError: when the folder holds a run already.
    """
    if folder is None:
        from elmanctl.names import slug

        folder = new_folder(Path("runs"), f"train_{slug(trial.model)}_{time.strftime('%Y%m%d_%H%M%S')}")
    if (folder / TRIAL).exists():
        raise UserError(f"{folder} holds a run already. Choose another --out, or go on with --resume {folder}.")
    write_json(folder / TRIAL, trial)
    return folder


def new_folder(parent: Path, name: str) -> Path:
    """Make and return a folder that did not exist: runs may start in the same second."""
    for number in itertools.count(1):
        folder = parent / (name if number == 1 else f"{name}_{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise UserError(f"{folder} cannot be made: {error.strerror}. Choose another with --out.") from error
        return folder


def continued(folder: Path) -> tuple[Trial, Path, bool]:
    """Check that a run can go on, and return what `finish` takes.

    Raises:
        UserError: when it has no checkpoint, or is finished.
    """
    from elmanctl.checkpoint import latest

    if not (folder / TRIAL).is_file():
        raise UserError(f"{folder} is no run: it holds no {TRIAL}. `elmanctl runs ls` lists the runs below runs/.")
    trial = read_json(folder / TRIAL, Trial)
    latest(folder)
    if (folder / RESULT).exists() and read_json(folder / RESULT, Result).status == "ok":
        raise UserError(f"{folder} is finished: its budget is spent. Start another run to train longer.")
    return trial, folder, True


def finish(trial: Trial, folder: Path, resume: bool, json: bool) -> None:
    """Train, print the summary and leave with the exit code of how it ended."""
    from elmanctl.progress import Live
    from elmanctl.train import run

    note(f"Training {trial.model} {trial.dim}x{trial.depth}, {short_count(trial.params)} parameters, in {folder}")
    with Live() as progress:
        result = run(trial, folder, progress, resume)
    if json:
        print_json({"folder": str(folder), "trial": trial, "result": result})
    else:
        print_table(["", ""], summary(trial, result, folder))
    if result.status == "interrupted":
        raise typer.Exit(130)
    if result.status != "ok":
        raise CheckFailed(f"{trial.model}: {result.status}. {result.message}")


def summary(trial: Trial, result: Result, folder: Path) -> list[list[Any]]:
    """Return the lines of the final summary; what a run was too short for is left out."""

    def number(value: float | None, form: str) -> str | None:
        return None if value is None else format(value, form)

    vouched = f", receipt {result.receipt[:12]}" if result.receipt else ""
    unit = "nats/byte"
    lines = [
        ["model", f"{trial.model} {trial.dim}x{trial.depth}, {short_count(trial.params)} parameters"],
        ["status", result.status],
        ["steps", f"{result.steps} ({result.tokens:,} bytes, {result.epochs:.3g} of the data)"],
        ["last-100 loss", result.last100_loss and f"{result.last100_loss:.4f} {unit}"],
        ["held-out loss", result.heldout_loss and f"{result.heldout_loss:.4f} {unit}"],
        ["throughput", result.tokens_per_second and f"{number(result.tokens_per_second, ',.0f')} tok/s"],
        ["peak memory", short_bytes(result.peak_memory_bytes)],
        ["ran", f"{result.execution}{vouched}, on {result.device_name}" if result.execution else None],
        ["data", f"{result.data} {result.data_hash}" if result.data else None],
        ["folder", str(folder)],
    ]
    return [line for line in lines if line[1]]
