"""Which configurations `elmanctl verify` checks for --all and --changed, and how much of one for --layer."""

import dataclasses

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
    """Return the variants that have no green receipt for a target, and the first of each family of kernels."""
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
    return found


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
        return request
    return dataclasses.replace(request, seed=old.seed, quick=old.quick, thorough=old.thorough, kept=old)
