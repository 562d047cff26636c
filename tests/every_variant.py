"""Every variant that the registry holds and the template, their configurations, and which of these the rules allow."""

import dataclasses

import pytest

from elmanctl import scaffold
from elmanctl.errors import UserError
from elmanctl.plugins import discovery
from elmanctl.plugins.registry import registry
from elmanctl.variant import Spec

VARIANTS = {**registry().variants(), "the template": discovery.load_variant(scaffold.TEMPLATE)}
KERNELS = {name: v for name, v in VARIANTS.items() if v.has_kernel}

each = pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
each_kernel = pytest.mark.parametrize("variant", KERNELS.values(), ids=KERNELS)


def flips(variant):
    """Return the default Config and, for each option, one for every other choice, or one with another value."""
    default = variant.config()
    found = [default]
    for f in dataclasses.fields(default):
        value = getattr(default, f.name)
        if isinstance(value, bool):
            others = [not value]
        elif f.metadata.get("choices"):
            others = [c for c in f.metadata["choices"] if c != value]
        elif isinstance(value, int):
            others = [2 * value + 8]
        else:
            others = [value / 2 + 1] if isinstance(value, float) else [f"{value}x"]
        found += [dataclasses.replace(default, **{f.name: other}) for other in others]
    return found


def allowed(variant):
    """Return the Specs of `flips` that the rules allow."""
    specs = [Spec(variant, config) for config in flips(variant)]
    return [s for s in specs if not broken(s)]


def broken(spec, dim=None):
    try:
        spec.check(dim, relaxed=("dim",))
    except UserError as error:
        return str(error)
    return ""


def smallest_dim(spec):
    """Return the smallest width that no hard rule refuses."""
    return next(dim for dim in range(16, 2048, 16) if not broken(spec, dim))
