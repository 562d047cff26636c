"""Checkpoints that resume bit for bit: safetensors and JSON, no pickle.

* A checkpoint is a folder `step_000500_loss_1.2345`; the loss is the mean over the last 100 steps (all where fewer ran).
* It is written aside and renamed into place with its manifest written last: what has the final name is whole.
* It holds weights, buffers, optimizer state, generator states, the place in the schedule and the rolling hash; the sampler
  needs nothing but the step.
"""

import contextlib
import os
import shutil
from pathlib import Path

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from elmanctl.data import file_hash
from elmanctl.errors import UserError
from elmanctl.files import read_json, write_json
from elmanctl.optim import Optimizer
from elmanctl.records import SCHEMA
from elmanctl.runlog import CHECKPOINTS, checkpoint_name, parse_checkpoint_name

KEEP = 2  # the newest ones; the one before the last survives a disk that fills up
MANIFEST = "manifest.json"


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a checkpoint holds besides tensors.

    `step` is the number of finished steps, which is also the sampler's counter; `seconds` the training clock; `schedule_start`
    the share of the budget at which warm-up ended; `files` the hash of each tensor file.
    """

    step: int
    loss: float
    seconds: float
    batch_hash: str
    schedule_start: float | None
    files: dict[str, str]
    schema: int = SCHEMA


def folder_of(run: Path) -> Path:
    """Return where a run keeps its checkpoints."""
    return run / CHECKPOINTS


def found_in(run: Path) -> list[Path]:
    """Return a run's checkpoints, oldest step first."""
    folder = folder_of(run)
    named = [(parse_checkpoint_name(p.name), p) for p in folder.iterdir()] if folder.is_dir() else []
    return [path for key, path in sorted((key, path) for key, path in named if key)]


def _tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _generators(device: torch.device) -> dict[str, torch.Tensor]:
    states = {"cpu": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def save(run: Path, model: torch.nn.Module, optimizer: Optimizer, device: torch.device, **facts) -> Path:
    """Write a checkpoint and delete all but the newest KEEP.

    Args:
        run: the run's folder; facts: the fields of Manifest except `files`.
    Returns:
        the checkpoint's folder.
    Raises:
        UserError: when it cannot be written; earlier checkpoints stay.
    """
    final = folder_of(run) / checkpoint_name(facts["step"], facts["loss"])
    aside = final.with_name(f".{final.name}.{os.getpid()}")
    groups = {
        "model": _tensors(model),
        "optimizer": optimizer.tensors(model),
        "generators": _generators(device),
    }
    try:
        remove_unfinished(run)
        aside.mkdir(parents=True)
        files = {}
        for group, tensors in groups.items():
            path = aside / f"{group}.safetensors"
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)
            _sync(path)
            files[path.name] = file_hash(path)
        write_json(aside / MANIFEST, Manifest(files=files, **facts))
        if final.exists():
            shutil.rmtree(final)
        aside.rename(final)
        _sync(final.parent)
    except (OSError, SafetensorError, UserError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise UserError(
            f"The checkpoint {final} could not be written: {error}. Free some space; earlier checkpoints are intact."
        ) from error
    for old in found_in(run)[:-KEEP]:
        shutil.rmtree(old)
    return final


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_unfinished(run: Path) -> None:
    """Delete what a killed process left of a checkpoint that it was writing."""
    for path in folder_of(run).glob(".step_*"):
        with contextlib.suppress(OSError):
            shutil.rmtree(path)


def latest(run: Path) -> Path:
    """Return a run's newest checkpoint.

    Raises:
        UserError: when it has none.
    """
    if not (found := found_in(run)):
        raise UserError(
            f"{run} has no checkpoint to resume from. Runs write them with --checkpoint-every N; start this one afresh."
        )
    return found[-1]


def drop_damaged(run: Path) -> None:
    """Put newer checkpoints out of the way whose files are not what their manifest says, so that `latest` is a whole one."""
    for path in reversed(found_in(run)):
        try:
            manifest = read_json(path / MANIFEST, Manifest)
            if all(
                (path / name).is_file() and file_hash(path / name) == hash_ for name, hash_ in manifest.files.items()
            ):
                return
        except UserError:  # no manifest that can be read: as damaged as the rest
            pass
        path.rename(path.with_name(f"damaged_{path.name}"))


def load(path: Path, model: torch.nn.Module, optimizer: Optimizer, device: torch.device) -> Manifest:
    """Copy a checkpoint into a model and an optimizer, in place, and set the generators.

    Raises:
        UserError: when a file is missing or damaged, or the tensors are not those of this model.
    """
    manifest = read_json(path / MANIFEST, Manifest)
    groups = {}
    for name, expected in manifest.files.items():
        if not (path / name).is_file() or file_hash(path / name) != expected:
            raise UserError(
                f"{path / name} is missing or damaged (its hash is not the manifest's). Delete {path} to resume from the one before."
            )
        groups[name.removesuffix(".safetensors")] = load_file(path / name)
    for into, saved in ((_tensors(model), groups["model"]), (optimizer.tensors(model), groups["optimizer"])):
        if different := sorted(into.keys() ^ saved.keys()) or [n for n in into if into[n].shape != saved[n].shape]:
            raise UserError(
                f"{path} does not fit this model: {', '.join(different[:3])} differ. The variant has changed since; start afresh."
            )
        with torch.no_grad():
            for name, tensor in into.items():
                tensor.copy_(saved[name])
    torch.set_rng_state(groups["generators"]["cpu"])
    if device.type == "cuda" and "cuda" in groups["generators"]:
        torch.cuda.set_rng_state(groups["generators"]["cuda"], device)
    return manifest
