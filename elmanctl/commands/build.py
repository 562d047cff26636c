"""`elmanctl build`: compile kernels and show what they use, against the build before and against their budgets."""

import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from elmanctl.console import note, print_json, print_table
from elmanctl.errors import CheckFailed, UserError
from elmanctl.plugins.registry import Registry, registry
from elmanctl.sizes import parse_sizes
from elmanctl.variant import Spec, parse_options

JOB_BYTES = 2**30  # nvcc's peak for one kernel, rounded up
FIGURES = ("registers", "spill_bytes", "stack_bytes", "shared_bytes", "warps_per_sm")


@dataclass(frozen=True)
class Job:
    """One library to build; `every` where it was not asked for by name."""

    spec: Spec
    target: str
    dtype: str
    sizes: dict[str, int]
    every: bool


class LeftOut(UserError):
    """A kernel of --all whose typical sizes a target cannot hold: said, but no mistake of who asked."""


def register(app: typer.Typer) -> None:
    """Add the verb `build`."""

    @app.command()
    def build(
        names: Annotated[list[str] | None, typer.Argument(help="Variants to build, for example X8 or X8n64.")] = None,
        every: Annotated[bool, typer.Option("--all", help="Build every variant that has a kernel.")] = False,
        option: Annotated[
            list[str] | None, typer.Option("-o", help="Option of the variants, key=value; repeatable.")
        ] = None,
        arch: Annotated[
            list[str] | None,
            typer.Option(
                help="Target: host, sm_80, sm_90 ...; repeatable. Default: the GPUs of this machine, else host."
            ),
        ] = None,
        dtype: Annotated[
            list[str] | None, typer.Option(help="Compute dtype; repeatable. Default: all that the target has.")
        ] = None,
        size: Annotated[
            list[str] | None,
            typer.Option(
                "--size",
                help="Run-time size that a kernel's division over the device depends on, B=8 or D=2048; repeatable. Default: B=32 D=1536.",
            ),
        ] = None,
        jobs: Annotated[
            int | None, typer.Option("-j", min=1, help="Compilers at a time. Default: as processors and memory allow.")
        ] = None,
        json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")] = False,
    ) -> None:
        """Compile kernels and show what they use.

        Prints registers, spills, stack and shared memory of each kernel function, against the build before and against the budgets
        of binding.py. Exit 1 when one exceeds its budget, 2 when one does not compile. Budgets are of sm_80, sm_89 and sm_90; on
        other chips a figure above them is a remark.
        """
        specs = choose(registry(), names or [], every, parse_options(option or []))
        sizes = parse_sizes(size or [])
        check_sizes(specs, sizes, every)
        todo = [
            Job(spec, t, d, sizes, every)
            for spec in specs
            for t in targets(arch or [])
            for d in dtypes(spec, t, dtype or [])
        ]
        with ThreadPoolExecutor(jobs or at_a_time()) as pool:
            results = list(pool.map(attempt, todo))
        done = [r for r in results if isinstance(r, dict)]
        left_out = list(dict.fromkeys(str(r) for r in results if isinstance(r, LeftOut)))
        failed = list(dict.fromkeys(str(r) for r in results if isinstance(r, UserError) and not isinstance(r, LeftOut)))
        if json:
            print_json({"builds": done, "left_out": left_out, "failed": failed})
        elif done:
            print_builds(done)
        for text in left_out:
            note(f"Left out: {text}")
        if failed:
            raise UserError("\n".join(failed))
        for text in (sentence for r in done if not r["gated"] for sentence in r["over_budget"]):
            note(f"Remark: {text}")
        if over := [sentence for r in done if r["gated"] for sentence in r["over_budget"]]:
            raise CheckFailed("\n".join(over))


def choose(known: Registry, names: list[str], every: bool, options: dict[str, Any]) -> list[Spec]:
    """Return what to build, checked against its rules.

    Raises:
        UserError: for neither names nor --all, both, a variant without a kernel, or options that break a rule.
    """
    if bool(names) == every:
        raise UserError("Name the variants to build, or give --all. elmanctl list shows them.")
    if every:
        names = [name for name, v in known.variants().items() if v.has_kernel]
    specs = [known.resolve(name, options) for name in names]
    for spec in specs:
        if not spec.variant.has_kernel:
            raise UserError(
                f"{spec.name} has no kernel; {spec.variant.library or 'a library'} runs it. There is nothing to build."
            )
        spec.check()
    return specs


def targets(given: list[str]) -> list[str]:
    """Return the targets to build for; from sm_90 on with the architecture's own instructions, as the tool runs them."""
    from elmanctl import machine
    from elmanctl.toolchain import HOST, device_target

    if not given:
        return list(machine.gpu_targets()) or [HOST]
    result = []
    for text in given:
        found = re.fullmatch(r"sm_([0-9]+)([0-9])a?", text)
        if text != HOST and not found:
            raise UserError(
                f"--arch {text} is no target. Give host, or an architecture such as sm_80, sm_90 or sm_100."
            )
        result.append(HOST if text == HOST else device_target(int(found[1]), int(found[2])))
    return list(dict.fromkeys(result))


def dtypes(spec: Spec, target: str, given: list[str]) -> list[str]:
    """Return the dtypes to build; what a kernel does not have is refused by the build."""
    from elmanctl.tensors import DTYPES
    from elmanctl.toolchain import HOST

    if wrong := [d for d in given if d not in DTYPES]:
        raise UserError(f"--dtype {wrong[0]} is not one of {', '.join(DTYPES)}.")
    parts = [d.split("@") for d in spec.variant.kernel().dtypes]
    return given or [p[0] for p in parts if len(p) == 1 or (p[1] == HOST) == (target == HOST)]


def check_sizes(specs: list[Spec], sizes: dict[str, int], every: bool) -> None:
    """Refuse a size on which no build depends; where variants are named, on which one of theirs does not.

    Raises:
        UserError: naming the size, the variant and what its build depends on.
    """
    for name in sizes:
        without = [spec for spec in specs if name not in typical(spec)]
        if without and (not every or len(without) == len(specs)):
            known = " and ".join(typical(without[0])) or "no run-time size"
            text = f"the build of {without[0].name} depends on {known}. Leave it out."
            raise UserError(
                f"--size {name}={sizes[name]}: " + ("no build depends on it. Leave it out." if every else text)
            )


def typical(spec: Spec) -> dict[str, int]:
    """Return the run-time sizes that a kernel's division depends on, as it is built for unless told others."""
    tiling = spec.variant.kernel().tiling
    return dict(tiling.typical) if tiling else {}


def at_a_time() -> int:
    """Return how many compilers processors and free memory allow."""
    import psutil

    return max(1, min(len(psutil.Process().cpu_affinity()), psutil.virtual_memory().available // JOB_BYTES))


def attempt(job: Job) -> dict[str, Any] | UserError:
    """Build one library; return what it uses, or the error to report."""
    from elmanctl import build, resources, tiles
    from elmanctl.files import read_json
    from elmanctl.tensors import ArgumentError
    from elmanctl.toolchain import cache_folder

    kernel = job.spec.variant.kernel()
    constants = job.spec.variant.module("binding").constants(job.spec.config)
    start = time.perf_counter()
    try:
        if kernel.tiling:
            constants = kernel.complete(
                constants, {**typical(job.spec), **job.sizes}, job.dtype, tiles.of_target(job.target)
            )
        key = build.key(kernel, constants, job.dtype, job.target)
        cached = (cache_folder() / "kernels" / key / "kernel.so").exists()
        folder = build.build(kernel, constants, job.dtype, job.target)
    except tiles.DoesNotFit as error:
        return (LeftOut if job.every and not job.sizes else UserError)(f"{job.spec.name} for {job.target}: {error}")
    except (UserError, ArgumentError) as error:
        return UserError(f"{job.spec.name}: {error}") if isinstance(error, ArgumentError) else error
    report = read_json(folder / "report.json", list[dict[str, Any]])
    return {
        "model": job.spec.name,
        "dtype": job.dtype,
        "target": job.target,
        "cached": cached,
        "seconds": time.perf_counter() - start,
        "functions": report,
        "before": resources.previous_report(cache_folder(), kernel.package, constants, job.dtype, job.target) or [],
        "budgets": dict(kernel.budgets),
        "gated": resources.gated(job.target),
        "over_budget": [
            f"{job.spec.name} {job.dtype} {job.target}: {s}." for s in resources.over_budget(report, kernel.budgets)
        ],
        "folder": str(folder),
    }


def print_builds(done: list[dict[str, Any]]) -> None:
    """Print one row per kernel function; a figure that changed shows the difference to the build before, one over its budget is red."""
    from rich.text import Text

    rows = []
    for r in done:
        before = {f["function"]: f for f in r["before"]}
        head = [r["model"], r["dtype"], r["target"], "cached" if r["cached"] else f"{r['seconds']:.1f} s"]
        for f in r["functions"] or [{"function": "(no figures: the host has no registers to count)"}]:
            cells = [figure(f.get(n), before.get(f["function"], {}).get(n), r["budgets"].get(n)) for n in FIGURES]
            rows.append([*head, f["function"], *(Text(text, "red" if over else "") for text, over in cells)])
            head = [None] * len(head)
    titles = ["registers", "spill B", "stack B", "shared B", "warps/SM"]
    print_table(["model", "dtype", "target", "build", "function", *titles], rows, right=tuple(titles))


def figure(now: int | None, before: int | None, budget: int | None) -> tuple[str, bool]:
    """Return one cell, `168 (+8) of 160`, and whether it is over budget."""
    if now is None:
        return "", False
    text = f"{now}" if before in (None, now) else f"{now} ({now - before:+d})"
    over = budget is not None and now > budget
    return (f"{text} of {budget}" if over else text), over
