"""Which configurations `elmanctl verify` checks for --all, --changed and --suite, and how much of one for --layer and --shape."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator

from elmanctl.console import note
from elmanctl.errors import UserError
from elmanctl.plugins.registry import registry
from elmanctl.variant import Spec


def every_spec(device: str) -> list[Spec]:
    """Return every variant that can run on a device, in its default configuration; the others are named."""
    found = []
    for problem in registry().problems():
        note(f"{problem.plugin} is left out: {problem.text}")
    for variant in registry().variants().values():
        spec = Spec(variant, variant.config())
        if missing := variant.missing():
            note(f"{variant.name} is left out: it needs {', '.join(missing)}. Install: {variant.install}")
        elif variant.requires and device == "cpu":
            note(f"{variant.name} is left out: {variant.library} runs on a GPU only.")
        else:
            found.append(spec)
    return found


def changed_specs(specs: list[Spec], target: str) -> list[Spec]:
    """Return what has no green receipt for a target: variants, and other configurations of them that had one; and the first of each family."""
    from elmanctl.verify import hashes, receipt

    found, families = [], set()
    for spec in specs:
        state = receipt.state(spec, target)
        if not spec.variant.has_kernel:
            found += [] if state == "green" else [spec]
            continue
        family = hashes.family(spec.variant)
        if state == "green" and family in families:
            note(f"{spec.name} is left out: its receipt is green, and {family} is verified with another variant.")
            continue
        families.add(family)
        found.append(spec)
    on_record = [other for spec in specs for other in receipt.configurations(spec.variant, target) if other != spec]
    return found + [other for other in on_record if receipt.state(other, target) != "green"]


def check_alone(ways: dict[str, object], parts: dict[str, object]) -> None:
    """Raise UserError for a way to choose a part that is given with another, or with what chooses other checks."""
    given = [name for name, value in ways.items() if value]
    if given and (more := [*given[1:], *(name for name, value in parts.items() if value)]):
        why = {
            "--layer": "runs the checks of the layer that the receipt at hand had, with its seed",
            "--shape": "adds cases to the receipt at hand, drawn by its seed",
            "--suite": "runs what the receipts of its rows lack",
        }[given[0]]
        raise UserError(f"{given[0]} {why}; leave out {', '.join(more)}.")


def named_requests(requests: list, shapes: list, layer: bool, several: bool, part: bool) -> Iterator:
    """Yield what runs of each model: a part at shapes or of the layer, a part that was asked for, or all."""
    at = (
        [at_shapes(request, shapes) for request in requests] if shapes else []
    )  # what cannot be is said before anything runs
    for request, sized in itertools.zip_longest(requests, at):
        if sized:
            yield sized
        elif shapes:
            note(
                f"{request.spec.name}: nothing to add; a case of each build that these sizes take has passed, or it has one build for all sizes."
            )
        elif layer:
            yield of_layer(request, several)
        else:
            yield request if part else with_earlier_sizes(request)


def suite_requests(name: str, asked: Callable) -> Iterator:
    """Yield what receipts lack of the kernels that a suite's rows run, where `asked` is the request for a model: all, or cases at their sizes."""
    from elmanctl import suite as suites
    from elmanctl import takeover
    from elmanctl.kernelbench import shapes as kernel_shapes
    from elmanctl.launch import device
    from elmanctl.verify import receipt

    suite, runs, lacking = suites.load(name), {}, 0
    for row in suites.sized(suite):
        if row.size is None or not row.row.spec.variant.has_kernel:
            continue
        trial = suites.trial(suite, row, "cuda", suite.budget, suite.training)
        spec, _ = takeover.of_trial(row.row.spec, trial, device(asked(row.row.spec).target))
        runs.setdefault(spec.name, (spec, []))[1].append(kernel_shapes.of_trial(trial))
    for spec, shapes in runs.values():
        request = asked(spec)
        if receipt.find(spec, request.target) is None:
            lacking += 1
            yield with_earlier_sizes(request)
        if receipt.find(spec, request.target) and (sized := at_shapes(request, shapes)):
            lacking += 1
            yield sized
    if not lacking:
        note(f"{name}: receipts vouch for the kernel of each row, at its sizes.")


def of_layer(request, several: bool):
    """Return the request for the layer's checks alone, as many as those of the receipt at hand.

    Args:
        several: whether one whose kernel's checks cannot be kept is verified whole, which is said, in place of being refused.
    """
    from elmanctl.verify import kept

    try:
        old = kept.earlier(request.spec, request.target)
    except UserError as error:
        if not several:
            raise UserError(f"{error} Leave --layer out.") from None
        note(f"{error} It is verified whole.")
        return with_earlier_sizes(request)
    return dataclasses.replace(request, seed=old.seed, quick=old.quick, thorough=old.thorough, kept=old)


def at_shapes(request, shapes):
    """Return the request for a case of each build that shapes take and in which none of the receipt at hand has passed; None where there is none.

    A receipt of another configuration that runs the very same kernel serves, and gets the cases.

    Raises:
        UserError: for a shape that the kernel cannot hold, or a configuration for which no receipt vouches.
    """
    import torch

    from elmanctl.launch import device
    from elmanctl.verify import receipt, sized

    spec, target = request.spec, request.target
    for shape in shapes:
        spec.check(shape.dim, relaxed=("dim",))  # one alignment for all models matters where they are compared
    known = receipt.find(spec, target)
    if known is None:
        raise UserError(
            f"--shape: no receipt for {target} vouches for {spec.name}, and cases at other sizes are added to one. "
            f"Run elmanctl verify {spec.name} --device {request.device} first."
        )
    name = torch.cuda.get_device_name() if request.device == "cuda" else ""
    lacking = sized.lacking(spec, known, shapes, device(target), name)
    if not lacking:
        return None
    owner = receipt.named(spec.variant, known.model)
    return dataclasses.replace(request, spec=owner, seed=known.seed, kept=known, sized=tuple(lacking))


def with_earlier_sizes(request):
    """Return the request for a whole run with the cases at sizes that receipts of its kind of target have, whatever these are worth."""
    from elmanctl.flavours import is_host
    from elmanctl.verify import receipt, sized

    on_host = request.device == "cpu"
    known = [held.receipt for target, held in receipt.held(request.spec).items() if is_host(target) == on_host]
    found = dict.fromkeys(case for one in known for case in sized.again(request.spec, one))
    return dataclasses.replace(request, sized=tuple(found))
