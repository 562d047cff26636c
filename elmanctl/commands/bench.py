"""`elmanctl bench`: run a suite, one trial on each device at a time, and report it."""

from typing import Annotated

import typer

from elmanctl.commands import bench_modes as modes
from elmanctl.commands.bench_kernels import time_kernels
from elmanctl.commands.bench_plan import asked_of_slurm, parse_batches, show_plan
from elmanctl.commands.bench_run import Checks, check_hook, execute, go_on
from elmanctl.errors import UserError
from elmanctl.names import check_run
from elmanctl.sizes import parse_count

KERNEL_SECONDS = 540.0


def register(app: typer.Typer) -> None:
    """Add the verb `bench`."""

    @app.command()
    def bench(
        context: typer.Context,
        names: Annotated[
            list[str] | None,
            typer.Argument(
                metavar="[SUITE]",
                help="A suite by name or file; `elmanctl suites` lists them. With --resume a run, with --kernels also models, NAME or NAME@dim=384.",
            ),
        ] = None,
        gpus: Annotated[
            str | None,
            typer.Option("--gpus", help="0-5, 0,2, UUIDs, all, -3 (all but 3), any:4. Default: every free GPU."),
        ] = None,
        gpus_per_trial: Annotated[
            int | None,
            typer.Option("--gpus-per-trial", min=1, help="GPUs that share each batch of a row. Default: the suite's."),
        ] = None,
        engine: Annotated[str, typer.Option("--engine", help="local, or slurm: every row a Slurm job.")] = "local",
        partition: Annotated[
            str | None, typer.Option("--partition", help="With --engine slurm: where. Default: Slurm's own default.")
        ] = None,
        sbatch: Annotated[
            list[str] | None,
            typer.Option("--slurm", help="With --engine slurm: key=value for sbatch, such as account=lab or time=120."),
        ] = None,
        wait: Annotated[bool, typer.Option("--wait", help="Let trials wait for GPUs that are in use now.")] = False,
        minutes: Annotated[float | None, typer.Option("--minutes", help="Training time of each row.")] = None,
        steps: Annotated[int | None, typer.Option("--steps", help="Optimizer steps of each row.")] = None,
        tokens: Annotated[str | None, typer.Option("--tokens", help="Target bytes of each row, such as 50M.")] = None,
        only: Annotated[list[str] | None, typer.Option("--only", help="Run this row; may be repeated.")] = None,
        seeds: Annotated[
            int | None,
            typer.Option("--seeds", min=1, help="Runs of each row with different seeds; default: the suite's."),
        ] = None,
        batch_sizes: Annotated[
            str | None,
            typer.Option("--batch-sizes", help="8,16,32: a table of throughput and memory against batch instead."),
        ] = None,
        kernels: Annotated[
            bool, typer.Option("--kernels", help="Time recurrences alone against libraries' instead, on one GPU.")
        ] = False,
        shape: Annotated[
            str | None, typer.Option("--shape", help="With --kernels: B=32,T=512,dim=1536, which is the default.")
        ] = None,
        sweep: Annotated[
            str | None,
            typer.Option(
                "--sweep", help="With --kernels: times along T,B,dim or some of them, or all sizes; and pictures."
            ),
        ] = None,
        against: Annotated[
            str | None,
            typer.Option(
                "--against", help="With --kernels: a variant to compare the others with, in place of libraries."
            ),
        ] = None,
        seconds: Annotated[
            float | None,
            typer.Option(
                "--seconds", min=1, callback=modes.finite, help="With --kernels: about the longest time. Default 540."
            ),
        ] = None,
        run: Annotated[
            str | None, typer.Option("--run", help="Name of the run below runs/, new or to join; with --kernels new.")
        ] = None,
        again: Annotated[bool, typer.Option("--again", help="Run rows anew that are finished.")] = False,
        resume: Annotated[bool, typer.Option("--resume", help="Go on with a run, by default the newest.")] = False,
        checkpoint_minutes: Annotated[
            float | None,
            typer.Option(
                min=0, callback=modes.finite, help="Time between checkpoints to go on from. Default 5; 0: none."
            ),
        ] = None,
        wall_minutes: Annotated[
            float | None,
            typer.Option(
                min=0, callback=modes.finite, help="Longest time of a trial. Default: an hour and twice its minutes."
            ),
        ] = None,
        retry_seconds: Annotated[
            float,
            typer.Option(
                min=0, callback=modes.finite, help="Wait before a trial that the machine failed is tried again."
            ),
        ] = 10.0,
        no_preflight: Annotated[
            bool, typer.Option("--no-preflight", help="Queue without one step of each row.")
        ] = False,
        preflight_only: Annotated[
            bool, typer.Option("--preflight-only", help="One step of each row with its peak memory, and stop.")
        ] = False,
        params: Annotated[
            str | None,
            typer.Option("--params", help="With --preflight-only or --dry-run: size every row to this, such as 1B."),
        ] = None,
        on_end: Annotated[
            str | None,
            typer.Option("--on-end", help="Command to run at the end; ELMANCTL_RUN and ELMANCTL_OK tell it more."),
        ] = None,
        unverified: Annotated[
            bool,
            typer.Option("--unverified", help="Run kernels without a receipt too; their rows are marked for good."),
        ] = False,
        dry_run: Annotated[
            bool, typer.Option("--dry-run", help="Show the plan and stop; exit code 1 if the run could not end well.")
        ] = False,
        json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")] = False,
    ) -> None:
        """Run a suite: one trial on each GPU at a time, in processes of their own, with a report at the end."""
        from elmanctl import bench as benching
        from elmanctl.queue.enqueue import CHECKPOINT_SECONDS, Limits
        from elmanctl.queue.enqueue import resume as queued_again
        from elmanctl.records import Budget

        modes.check(context)
        check_hook(on_end)
        if names and len(names) > 1 and not kernels:
            raise UserError(
                f"bench runs one suite and was given {', '.join(names)}. Only --kernels takes several names."
            )
        suite = names[0] if names else None
        if resume:
            if suite and run:
                raise UserError(f"--resume goes on with one run and was given {suite} and --run {run}. Name it once.")
            go_on(queued_again(run or suite), None, on_end, json)
            return
        check_run(run)
        if kernels:
            time_kernels(names or [], gpus, shape, sweep, run, seconds or KERNEL_SECONDS, against, json)
            return
        if suite is None:
            raise UserError("Name a suite: elmanctl bench SUITE. `elmanctl suites` lists them.")
        if params is not None and not (preflight_only or dry_run):
            raise UserError(
                "--params goes with --preflight-only or --dry-run. A run takes its size from the suite's file: write one of your own."
            )
        slurm = asked_of_slurm(
            engine, partition, sbatch or [], {"--gpus": gpus, "--wait": wait, "--preflight-only": preflight_only}
        )
        budget = Budget(
            steps=steps, tokens=parse_count(tokens, "--tokens") if tokens is not None else None, minutes=minutes
        )
        batches = parse_batches(batch_sizes) if batch_sizes is not None else []
        if budget == Budget():
            budget = None
        else:
            budget.check()
        asked = benching.Asked(
            gpu_text=gpus,
            budget=budget,
            only=tuple(only or ()),
            batches=tuple(batches),
            dry_run=dry_run,
            wait=wait,
            unverified=unverified,
            repeats=seeds,
            params=None if params is None else parse_count(params),
            ranks=gpus_per_trial,
            slurm=slurm is not None,
        )
        plan = benching.prepare(suite, asked)
        if slurm is not None:
            from elmanctl.queue.slurm import check

            check(slurm, 0 if plan.suite.device == "cpu" else plan.suite.ranks)
        if dry_run:
            show_plan(plan, json)
        else:
            limits = Limits(
                checkpoint_seconds=CHECKPOINT_SECONDS if checkpoint_minutes is None else checkpoint_minutes * 60,
                wall_seconds=None if wall_minutes is None else wall_minutes * 60,
                backoff_seconds=retry_seconds,
            )
            checks = Checks(not no_preflight, preflight_only, on_end)
            execute(plan, run, again, limits, checks, json, slurm)
