"""What a training record says about where its numbers come from: implementation, receipt and versions."""

import importlib.metadata
import platform

import torch

import elmanctl
from elmanctl import norms, takeover
from elmanctl.device import name_of, target_of
from elmanctl.records import VOUCHED, Trial
from elmanctl.variant import Spec, Variant


def versions(variant: Variant) -> dict[str, str]:
    """Return versions of Python, torch, CUDA, this tool and the distributions that a baseline requires."""
    found = {"python": platform.python_version(), "torch": str(torch.__version__), "elmanctl": elmanctl.__version__}
    if torch.version.cuda and torch.cuda.is_available():
        found["cuda"] = torch.version.cuda
    if variant.requires:
        owners = importlib.metadata.packages_distributions()
        for module in variant.requires:
            for name in owners.get(module.split(".")[0], ()):
                found[name] = importlib.metadata.version(name)
    return found


def facts(spec: Spec, device: torch.device) -> dict:
    """Return these fields of a Result: execution, receipt, norm, device_name and versions."""
    kind, receipt = execution(spec, device)
    return {
        "execution": kind,
        "receipt": receipt,
        "norm": norms.implementation(device),
        "device_name": name_of(device),
        "versions": versions(spec.variant),
    }


def execution(spec: Spec, device: torch.device) -> tuple[str, str]:
    """Return what runs (`kernel`, `cublas`, `reference` or `library`) and the id of the receipt that vouches for it, or an empty text."""
    kind = takeover.execution(spec, device.type)
    if kind not in VOUCHED:
        return kind, ""
    from elmanctl.verify import receipt

    found = receipt.find(spec, target_of(device))
    return kind, found.source_hash if found else ""


def remark(spec: Spec, trial: Trial, device: torch.device) -> str:
    """Return what the receipt for this device does not vouch for, where a trial's width and rows take a build of their own, or an empty text."""
    if device.type != "cuda" or takeover.execution(spec, device.type) != "kernel":
        return ""
    from elmanctl.kernelbench import shapes
    from elmanctl.launch import device as divided_over
    from elmanctl.verify import receipt, sized

    target, shape = target_of(device), shapes.of_trial(trial)
    known = receipt.find(spec, target)
    over = divided_over(target, device.index or 0)
    if known is None or not sized.lacking(spec, known, [shape], over, name_of(device)):
        return ""
    size = f"B={shape.B},T={shape.T},dim={shape.dim}"
    return (
        f"The receipt of {known.model} has no case of the build that {size} takes on this GPU; "
        f"elmanctl verify {spec.name} --shape {size} --device cuda adds one."
    )
