"""What a run of a part keeps of an earlier receipt: one of the layer alone (`--layer`) the checks of the kernel, while nothing that these are of
has changed; one at other sizes (`--shape`) all of them.

Torch is not imported.
"""

from collections.abc import Iterable

from msgspec.structs import replace

from elmanctl.errors import UserError
from elmanctl.variant import Spec
from elmanctl.verify import receipt
from elmanctl.verify.hashes import kernel_scope
from elmanctl.verify.record import Receipt

LAYER = ("layer ", "option ")  # how the names of a layer's checks begin


def earlier(spec: Spec, target: str) -> Receipt:
    """Return the receipt of a configuration whose checks of the kernel still hold, whatever became of the layer.

    Raises:
        UserError: where there is none; it says why.
    """
    known = receipt.held(spec, (target,)).get(target)
    old, why = known and known.receipt, ""
    if not spec.variant.has_kernel:
        why = "it has no kernel of ours, and all its checks are of the layer"
    elif old is None or not old.created:
        why = f"it has no receipt for {target}, from which the kernel's checks could be kept"
    elif not old.intact:
        why = f"its receipt for {target} was changed by hand"
    elif failed := [name for name in old.failed if name not in receipt.UNPROVEN and not name.startswith(LAYER)]:
        why = f"its kernel failed {', '.join(failed[:3])}"
    elif old.scope != kernel_scope(spec, target):
        why = f"the kernel, what it includes, binding.py or reference.py have changed since its receipt for {target}"
    if why:
        raise UserError(f"--layer: {spec.name}: {why}.")
    return old


def joined(old: Receipt, new: Receipt, kernel: Iterable[str]) -> Receipt:
    """Return the receipt of a layer's new checks and an earlier receipt's of the kernel.

    Args:
        kernel: names of the kernel's tensors. One that the layer has too (y) keeps its larger error, the kernel's as a rule.
    """
    results = {name: value for name, value in old.results.items() if not name.startswith(LAYER)} | new.results
    tensors = {name: old.tensors[name] for name in kernel if name in old.tensors}
    tensors |= {name: max(value, tensors.get(name, 0.0)) for name, value in new.tensors.items()}
    return replace(
        new,
        **_errors(tensors),
        dtypes=old.dtypes,
        cases=old.cases,
        keys=old.keys,
        compiler=old.compiler,
        results=results,
        sanitized=old.sanitized,
        sized=old.sized,
        kernel_checked=old.kernel_checked or old.created,
    )


def added(old: Receipt, new: Receipt) -> Receipt:
    """Return a receipt with the cases of a run of the same sources at other sizes, which are all that `new` has."""
    results = old.results | new.results
    tensors = {n: max(old.tensors.get(n, 0.0), new.tensors.get(n, 0.0)) for n in old.tensors | new.tensors}
    return replace(
        old,
        **_errors(tensors),
        cases=old.cases + len(set(new.sized) - old.results.keys()),
        results=results,
        failed=new.failed,
        sized=tuple(dict.fromkeys((*(old.sized or ()), *new.sized))),
    )


def _errors(tensors: dict[str, float]) -> dict[str, object]:
    """Return the fields of a receipt that say the largest error over limit of each tensor, and of all."""
    worst = max(tensors, key=tensors.get, default="")
    return {"tensors": tensors, "worst": tensors.get(worst, 0.0), "worst_tensor": worst}
