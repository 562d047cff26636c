"""`elmanctl bench --kernels`: recurrences timed alone, with table, JSON and pictures."""

import contextlib
import os
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from elmanctl.commands.build import at_a_time
from elmanctl.console import note, print_json
from elmanctl.errors import CheckFailed, UserError
from elmanctl.files import atomic, write_json
from elmanctl.names import KERNELS, KERNELS_PAGE
from elmanctl.plugins.registry import registry
from elmanctl.variant import Spec


def time_kernels(
    names: list[str],
    gpu: str | None,
    shape: str | None,
    sweep: str | None,
    run: str | None,
    seconds: float,
    against: str | None,
    json: bool,
) -> None:
    """Time the kernels of models, of suites' models, or of every variant, and write the record.

    Args:
        names: models or suites, each with sizes of its own after an @ if it needs them; none for every variant with a kernel.
        gpu: one GPU, as --gpus takes it; None for the first free one.
        shape, sweep: texts of the options.
        run: name of the folder below runs/ for kernels.json, kernels.md and the pictures, new; None for `kernels-<time>`.
        seconds: about how long it may take once everything is built; what is not reached by then is a row that says so.
        against: variant that the others are compared with in a table of its own, in place of libraries; None for libraries.
    """
    from elmanctl.kernelbench import shapes

    check_new(run)
    base, axes = shapes.parse_shape(shape), shapes.parse_sweeps(sweep)
    todo = wanted(names, base)
    specs = list({spec.name: spec for spec, _ in todo}.values())
    if against is not None and against not in {spec.variant.name for spec in specs}:
        raise UserError(f"--against {against}: no model here is one of variant {against}. Name one beside the others.")
    chosen = one_gpu(gpu)
    os.environ["CUDA_VISIBLE_DEVICES"] = chosen.uuid  # before torch looks
    import torch

    from elmanctl.kernelbench import ahead, ceilings, show
    from elmanctl.kernelbench import run as timing
    from elmanctl.provenance import versions
    from elmanctl.verify import receipt

    device = torch.device("cuda")
    vouching = {name: r.source_hash[:12] for name, r in receipt.require(specs, chosen.target).items()}
    sizes = [shapes.chosen(own, axes, bool(axes) and timing.sees_width(spec, own, device)) for spec, own in todo]
    total = sum(map(len, sizes))
    for (spec, _), own in zip(todo, sizes, strict=True):
        check_builds(spec, own)
    ahead.compile_all(
        [(spec, one) for (spec, _), own in zip(todo, sizes, strict=True) for one in own], device, at_a_time()
    )
    started, rows = datetime.now(UTC).isoformat(timespec="seconds"), []
    began, measured = time.monotonic(), ceilings.measure(device)
    rivals = "" if against else " with their rivals"
    note(f"{total} shapes of {len(specs)} kernels{rivals}, in about {seconds:g} s at most (--seconds).")
    folder = new_folder(run)
    record = show.Record(
        device_name=chosen.name,
        started=started,
        base=base.text(),
        ceilings=measured,
        versions=versions(specs[0].variant),
        rows=rows,  # as many as there are when it is written
        against=against or "",
    )
    for (spec, _), own in zip(todo, sizes, strict=True):
        left = max(0.0, seconds - (time.monotonic() - began))
        share = left * len(own) / total
        total -= len(own)
        for row in timing.rows(spec, own, device, vouching[spec.name], seconds=share, alone=against is not None):
            rows.append(row)
            note(show.progress(row))
            write(record, folder, {})  # a rival's error or a kill costs no row that was timed
    written = write(record, folder, pictures(rows, todo) if axes else {})
    print_json(record) if json else show.print_record(record)
    note(f"Record: {', '.join(map(str, written))}")


def check_builds(spec: Spec, shapes) -> None:
    """Verify a case of each build that shapes take and of which the receipt has none; a shape that cannot be run says so when it is timed.

    Raises:
        CheckFailed: where one does not pass.
    """
    from elmanctl.commands.verify import keep
    from elmanctl.commands.verify_choice import at_shapes
    from elmanctl.verify import plan, session, show

    asked = []
    for shape in shapes:
        with contextlib.suppress(UserError):
            asked += [request] if (request := at_shapes(plan.Request(spec, "cuda"), [shape])) else []
    if cases := dict.fromkeys(case for request in asked for case in request.sized):
        note(f"{spec.name}: its receipt has no case of {len(cases)} of these builds; they are verified first.")
        outcome = session.verify(replace(asked[0], sized=tuple(cases)))
        keep(outcome)
        if failed := [check for check in outcome.checks if not check.ok]:
            raise CheckFailed(
                f"{spec.name} failed {', '.join(check.id for check in failed)}: a kernel is not timed before it is right. "
                f"{show.command(outcome.request, failed[0])} shows where."
            )


def check_new(run: str | None) -> None:
    """Refuse a --run whose folder holds something, an earlier record or a suite's run: either would be lost or mixed with another.

    Raises:
        UserError: naming the folder.
    """
    folder = Path("runs") / (run or "")
    if run is not None and os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"{folder} exists, and a record of kernels has a folder of its own. Choose another --run.")


def new_folder(run: str | None) -> Path:
    """Return the folder of a record that begins now: the one named below runs/, or one named for the time."""
    from elmanctl import plan

    check_new(run)
    return plan.RUNS / run if run else plan.new_folder(f"kernels-{datetime.now().astimezone():%Y%m%d-%H%M%S}")


def wanted(names: list[str], base) -> list[tuple[Spec, object]]:
    """Return each model that names stand for with the shape it is timed at first: the base, or what follows the name's @."""
    from elmanctl.kernelbench.shapes import parse_shape

    found = {}
    for text in names or [None]:
        name, at, own = text.partition("@") if text else (None, "", "")
        for spec in models(name):
            shape = parse_shape(own if at else None, base)
            found[spec.name, shape] = (spec, shape)
    return list(found.values())


def pictures(rows, todo) -> dict[str, dict]:
    """Return each model's pictures (kernelbench.run.lines) around every shape that it was swept from."""
    from elmanctl.kernelbench.run import lines

    found: dict[str, dict] = {}
    for spec, shape in todo:
        found.setdefault(spec.name, {}).update(lines(rows, spec.name, shape))
    return found


def models(name: str | None) -> list[Spec]:
    """Return what a name stands for: a suite's models that have a kernel, one model, or by default every variant with a kernel.

    Raises:
        UserError: for a name that is neither, or a model without a kernel.
    """
    known = registry()
    if name is None:
        return [Spec(v, v.config()) for v in known.variants().values() if v.has_kernel]
    from elmanctl import suite as suites

    if name in suites.available() or Path(name).suffix in (".yaml", ".yml"):
        found = [row.spec for row in suites.load(name).rows if row.spec.variant.has_kernel]
    else:
        spec = known.resolve(name)
        found = [spec] if spec.variant.has_kernel else []
    if not found:
        raise UserError(f"{name} has no kernel of its own to time. elmanctl list shows which variants have one.")
    return list({spec.name: spec for spec in found}.values())


def one_gpu(text: str | None):
    """Return the GPU to time on, locked until this process ends: the one named, or the first that nobody uses.

    Raises:
        UserError: for none, a busy one, or several.
    """
    from elmanctl.gpus import choice, free, locks

    sampler = free.Sampler().settle()
    pool = choice.select(text, sampler.box, sampler.reasons)
    if text is not None and len(pool.uuids) != 1:
        raise UserError(
            f"--gpus {text} names {len(pool.uuids)} GPUs; kernels are timed on one. Name one, --gpus 0 for example."
        )
    if locks.acquire(pool.uuids[0], "bench --kernels") is None:
        raise UserError(f"{pool.uuids[0]} was locked by somebody else just now. `elmanctl gpus` shows who.")
    return next(gpu for gpu in sampler.box if gpu.uuid == pool.uuids[0])


def write(record, folder: Path, pictures: dict[str, dict]) -> list[Path]:
    """Write kernels.json, kernels.md and each model's pictures (kernelbench.run.lines); return the files."""
    from elmanctl.kernelbench import plot, show

    write_json(folder / KERNELS, record)
    texts = {KERNELS_PAGE: show.markdown(record)}
    for model, named in pictures.items():
        for name, (axis, place, points) in named.items():
            title = f"{model}, {place}, {record.device_name}"
            texts[f"{model}_{name}.svg".replace(":", "_")] = plot.svg(title, axis, points)
    for name, text in texts.items():
        with atomic(folder / name) as file:
            file.write(text)
    return [folder / name for name in (KERNELS, *texts)]
