"""`elmanctl verify`: is a variant right? Every output and gradient against fp64, and properties that need no truth."""

import contextlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from elmanctl import takeover
from elmanctl.commands.verify_choice import changed_specs, check_alone, every_spec, named_requests, suite_requests
from elmanctl.console import err, note, print_json
from elmanctl.errors import CheckFailed, UserError
from elmanctl.kernelbench.shapes import parse_shape
from elmanctl.plugins.registry import registry
from elmanctl.variant import parse_options

DEVICES = ("cpu", "cuda")


def register(app: typer.Typer) -> None:
    """Add the verb `verify`."""

    @app.command()
    def verify(
        names: Annotated[list[str] | None, typer.Argument(help="Models, with options in the name or by -o.")] = None,
        every: Annotated[bool, typer.Option("--all", help="Verify every variant that can run on the device.")] = False,
        changed: Annotated[
            bool,
            typer.Option(
                "--changed", help="Verify what has a stale or red receipt, variants without, and one of each family."
            ),
        ] = False,
        option: Annotated[list[str] | None, typer.Option("-o", help="key=value, for every model named.")] = None,
        device: Annotated[
            str | None,
            typer.Option(help="cpu (the kernel compiled for the host) or cuda. Default: cuda if there is one."),
        ] = None,
        quick: Annotated[bool, typer.Option("--quick", help="Fewer cases; the receipt says so.")] = False,
        thorough: Annotated[
            bool, typer.Option("--thorough", help="Every kind of input at every length, more shapes; takes its time.")
        ] = False,
        case: Annotated[str | None, typer.Option("--case", help="One check alone, as verify prints it.")] = None,
        dtype: Annotated[str | None, typer.Option("--dtype", help="Only checks in this dtype.")] = None,
        seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of inputs and roundings.")] = 0,
        sanitize: Annotated[
            bool, typer.Option("--sanitize", help="Also under sanitizers: address, undefined behaviour, races.")
        ] = False,
        prove: Annotated[
            bool, typer.Option("--prove", help="Also plant mistakes, compiled for the host; verify must reject them.")
        ] = False,
        mutants: Annotated[
            int | None, typer.Option("--mutants", min=1, help="Edits of the source for --prove to judge. Default: 100.")
        ] = None,
        train: Annotated[
            bool,
            typer.Option("--train", help="Also train a tiny model with kernel and reference; curves must coincide."),
        ] = False,
        jobs: Annotated[
            int | None, typer.Option("--jobs", min=1, help="Worker processes. Default: one per core.")
        ] = None,
        layer: Annotated[
            bool,
            typer.Option(
                "--layer", help="Only the layer's checks; the kernel's are kept from a receipt, if it has not changed."
            ),
        ] = False,
        shape: Annotated[
            list[str] | None,
            typer.Option(
                "--shape",
                help="B=32,T=512,dim=1536: only a short case of the build that this takes, added to the receipt; repeatable.",
            ),
        ] = None,
        suite: Annotated[
            str | None,
            typer.Option(
                "--suite", help="What a suite's rows run: whole where no receipt vouches, and each at its own --shape."
            ),
        ] = None,
        watch: Annotated[
            bool, typer.Option("--watch", help="Run the quick set now and whenever a source changes.")
        ] = False,
        json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")] = False,
    ) -> None:
        """Check a variant's kernel and layer; exit 1 if a check fails. A complete pass writes a receipt."""
        several = every or changed
        if bool(names) + every + changed + (suite is not None) != 1:
            raise UserError("Give model names, --all, --changed or --suite. elmanctl list shows what there is.")
        if case is not None and (several or len(names or ()) > 1 or quick or dtype or sanitize or train):
            raise UserError(
                "--case names one check of one model; give no --all, --quick, --dtype, --sanitize or --train with it."
            )
        from elmanctl.verify import plan, pool

        if thorough and (quick or case is not None):
            raise UserError("--thorough runs more checks, --quick and --case fewer: give one of them.")
        if watch and json:
            raise UserError("--watch prints tables as it goes; leave out --json.")
        if watch and prove:
            raise UserError(
                "--watch runs a part at each save, and --prove takes minutes of a whole run: give one of them."
            )
        parts = {"--quick": quick, "--thorough": thorough, "--case": case is not None, "--dtype": dtype, "--seed": seed}
        parts |= {"--sanitize": sanitize, "--prove": prove, "--train": train, "--watch": watch}
        check_alone({"--layer": layer, "--shape": shape, "--suite": suite}, parts)
        shapes = [parse_shape(text) for text in shape or []]
        where = choose_device(device)
        check_proof(prove, mutants, quick or case is not None or dtype is not None)
        options = parse_options(option or [])
        specs = every_spec(where) if several else [registry().resolve(n, options) for n in names or []]
        if option and not names:
            raise UserError("-o goes with model names, not with --all, --changed or --suite.")
        specs = changed_specs(specs, plan.Request(specs[0], where).target) if changed and specs else specs
        for spec in specs:
            spec.check()
        if watch:
            from elmanctl.verify.watch import follow

            part = quick or thorough or case is not None or dtype is not None
            follow(specs, [a for a in sys.argv[1:] if a != "--watch"] + ([] if part else ["--quick"]))
            return
        results, failed = [], []
        if several and where == "cpu":
            pool.prepare(every=True)  # once, and not in a worker of each

        def asked(spec):
            return plan.Request(spec, where, seed, quick, case, dtype, sanitize, thorough, train)

        if suite is not None:
            requests = suite_requests(suite, asked)
        else:
            how = {"layer": layer, "several": several, "part": quick or case is not None or bool(dtype)}
            requests = named_requests([asked(spec) for spec in specs], shapes, **how)
        try:
            for request in requests:
                data, ok = verify_one(request, json, jobs)
                if prove and ok:
                    data["proof"], ok = prove_one(request, mutants, json, jobs)
                results.append(data)
                failed += [] if ok else [request.spec.name]
        finally:  # also of those before an error
            if json:
                print_json(results)
        if failed:
            raise CheckFailed(f"Failed: {', '.join(failed)}.")


def choose_device(given: str | None) -> str:
    """Return `cpu` or `cuda`. Raises UserError for another name, or for cuda without a GPU."""
    if given not in (None, *DEVICES):
        raise UserError(f"--device {given} is not one of {', '.join(DEVICES)}.")
    if given == "cpu":
        return given
    import torch

    if given == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no GPU here. Use --device cpu, or see elmanctl doctor.")
    return "cuda" if torch.cuda.is_available() else "cpu"


def check_proof(prove: bool, mutants: int | None, partial: bool) -> None:
    """Raise UserError where --prove or --mutants cannot be followed."""
    if mutants is not None and not prove:
        raise UserError("--mutants says how many mistakes --prove plants; give --prove too.")
    if prove and partial:
        raise UserError("--prove is of a whole run: give no --quick, --case or --dtype with it.")


def prove_one(passed, mutants: int | None, json: bool, jobs: int | None = None) -> tuple[dict | None, bool]:
    """Plant mistakes in one configuration that passed, and print or return what became of them; where no kernel of ours runs, say so.

    The mistakes are compiled for the host, wherever the configuration passed: a planted one may write anywhere, and a device that it
    harmed would fail what comes next. The proof is of the sources, so it goes into every receipt of the configuration that vouches for them.
    """
    from msgspec import structs

    from elmanctl.verify import hashes, plan, receipt
    from elmanctl.verify.prove import proof, show

    spec = passed.spec
    if not spec.variant.has_kernel or takeover.by_products(spec):
        note(
            f"--prove is not run: {spec.name} has no kernel of its own, so that there is nothing to plant mistakes in."
        )
        return None, True
    request, scope = plan.Request(spec, "cpu", passed.seed), hashes.kernel_scope(spec)
    with err().status(f"{spec.name}: planting mistakes") if err().is_terminal else contextlib.nullcontext() as status:

        def progress(what: str, done: int, count: int) -> None:
            if status is not None:
                status.update(f"{spec.name}: {what} {done} of {count}")

        found = proof.prove(plan.Plan(request), mutants or proof.MUTANTS, progress, jobs)
    for target in receipt.held(spec):
        receipt.attach(spec, target, structs.replace(found.record(), scope=scope), found.ok)
    if not json:
        show.show(spec.name, found)
    return show.as_json(found), found.ok


def verify_one(request, json: bool, jobs: int | None = None) -> tuple[dict, bool]:
    """Verify one configuration, print or return what was found, and write its receipt."""
    import torch

    from elmanctl.verify import session, show

    torch.set_num_threads(1)  # work is spread over processes
    spec = request.spec
    if err().is_terminal and not json:
        with err().status(f"{spec.name}: starting") as status:
            outcome = session.verify(
                request, lambda done, count: status.update(f"{spec.name}: {done} of {count} checks"), jobs
            )
    else:
        outcome = session.verify(request, jobs=jobs)
    path, text = keep(outcome)
    if not json:
        show.show(outcome, text)
    return (show.as_json(outcome, path) if json else {}), outcome.ok


def keep(outcome) -> tuple[Path | None, str]:
    """Write the receipt of a complete pass, or a red one of a failure; return its file and what was done, in words."""
    from elmanctl.verify import receipt, session

    spec, target = outcome.request.spec, outcome.target
    if outcome.request.sized and outcome.request.kept and (now := receipt.find(spec, target)):
        outcome.request = replace(outcome.request, kept=now)  # another process may have added to it meanwhile
    if not outcome.ok:
        receipt.write(spec, session.receipt_of(outcome))
        return None, "Its receipt is red."
    if not outcome.request.complete:
        return None, "No receipt: only a part ran."
    path = receipt.write(spec, session.receipt_of(outcome))
    if path is None:
        return None, "The receipt of a full run stays."
    if receipt.state(spec, target) == "red":
        return (
            path,
            "Its receipt stays red: verify would not notice some mistakes, as --prove found. Only --prove takes that back.",
        )
    kind = "Quick receipt" if outcome.request.quick else "Receipt"
    elsewhere = path != receipt.places(spec.variant, target)[0]
    return path, f"{kind}: {path}" + (" (the variant's folder cannot be written)" if elsewhere else "")
