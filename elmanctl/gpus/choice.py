"""What `--gpus` says: `0-5`, `0,2,4`, UUIDs, `all`, `-3` (all but 3), `any:4`, and lists of these."""

import re

import msgspec

from elmanctl.errors import UserError
from elmanctl.gpus.nvml import Gpu

LARGEST_BOX = 64  # of a machine that is not here
FORMS = "Give numbers and ranges such as 0-5 or 0,2, a UUID, all, -3 for all but 3, or any:4."


class Pool(msgspec.Struct, frozen=True):
    """The GPUs that a run may use, by UUID in order of preference, and how many of them at a time (None: all)."""

    uuids: tuple[str, ...]
    most: int | None = None


def parse(text: str, box: list[Gpu]) -> Pool:
    """Return the GPUs that a `--gpus` text names, in order and each once.

    Args:
        box: the GPUs of the machine, in PCI order.
    Raises:
        UserError: for what cannot be read, a range that falls, a GPU that does not exist, or none left.
    """
    wanted: dict[str, None] = {}
    unwanted: set[str] = set()
    most = None
    for part in (piece.strip() for piece in text.split(",")):
        if part == "all":
            wanted.update(dict.fromkeys(gpu.uuid for gpu in box))
        elif found := re.fullmatch(r"any:([0-9]+)", part):
            most = int(found[1])
            if not 1 <= most <= len(box):
                raise UserError(f"--gpus {text}: {part} wants {most} GPUs; {_here(box)}.")
        elif found := re.fullmatch(r"(-?)([0-9]+)(?:-([0-9]+))?", part):
            first, last = int(found[2]), int(found[3] or found[2])
            if last < first:
                raise UserError(f"--gpus {text}: the range {first}-{last} runs backwards. Try {last}-{first}.")
            if last >= len(box):
                raise UserError(f"--gpus {text}: there is no GPU {last}; {_here(box)}.")
            uuids = [box[index].uuid for index in range(first, last + 1)]
            if found[1]:
                unwanted.update(uuids)
            else:
                wanted.update(dict.fromkeys(uuids))
        elif re.fullmatch(r"(?i)GPU-[0-9a-z-]+", part):
            wanted[_by_uuid(part, text, box)] = None
        else:
            raise UserError(f"--gpus {text}: cannot read {part!r}. {FORMS}")
    uuids = tuple(uuid for uuid in (wanted or [gpu.uuid for gpu in box]) if uuid not in unwanted)
    if len(uuids) < (most or 1):
        raise UserError(f"--gpus {text} leaves {len(uuids) or 'no'} GPU to choose from. {FORMS}")
    return Pool(uuids, most)


def assumed(text: str, capability: tuple[int, int]) -> list[Gpu]:
    """Return a box just large enough for the numbers in a `--gpus` text, for the plan of a run on another machine.

    Raises:
        UserError: where that is more than any machine has.
    """
    count = 1
    for part in text.split(","):
        if found := re.fullmatch(r"\s*(any:|-?)([0-9]+)(?:-([0-9]+))?\s*", part):
            count = max(count, int(found[3] or found[2]) + (found[1] != "any:"))
    if count > LARGEST_BOX:
        raise UserError(
            f"--gpus {text}: a plan for another machine takes up to {LARGEST_BOX} GPUs, 0 to {LARGEST_BOX - 1}. Give fewer."
        )
    shape = {"name": "", "memory_total": 0, "memory_used": 0, "utilisation": 0, "capability": capability}
    return [Gpu(index=index, uuid=f"GPU-{index}", **shape) for index in range(count)]


def _here(box: list[Gpu]) -> str:
    return "this machine has " + ("only GPU 0" if len(box) == 1 else f"GPUs 0 to {len(box) - 1}")


def _by_uuid(part: str, text: str, box: list[Gpu]) -> str:
    exact = [gpu.uuid for gpu in box if gpu.uuid.lower() == part.lower()]
    found = exact or [gpu.uuid for gpu in box if gpu.uuid.lower().startswith(part.lower())]
    if len(found) != 1:
        what = f"begins the UUIDs of {len(found)} GPUs" if found else "is the UUID of no GPU here"
        raise UserError(f"--gpus {text}: {part} {what}. `elmanctl gpus` lists them.")
    return found[0]


def select(text: str | None, box: list[Gpu], why, wait: bool = False) -> Pool:
    """Return the GPUs that a run may use: those named, which have to be free now, or without a text every free one.

    Args:
        box: the GPUs of the machine.
        why: returns the reasons why a GPU, by UUID, is not free; see free.Sampler.
        wait: take busy ones too; their trials wait. `any:` always does.
    Raises:
        UserError: for a text that is no list, a GPU that does not exist or is in use, or none free.
    """
    if not box:
        raise UserError(
            "There is no GPU here that NVML can see. `elmanctl bench smoke` runs on the CPU; `--dry-run` shows the plan of any suite."
        )
    pool = parse("all" if text is None else text, box)
    busy = {gpu.uuid: found for gpu in box if (found := why(gpu.uuid))}
    free = [gpu for gpu in box if gpu.uuid not in busy]
    lines = [
        f"GPU {gpu.index} is {reason}." for gpu in box for reason in busy.get(gpu.uuid, ()) if gpu.uuid in pool.uuids
    ]
    if text is None and not wait:
        if not free:
            raise UserError("\n".join(["No GPU is free.", *lines, "--wait lets trials wait for one."]))
        return Pool(tuple(gpu.uuid for gpu in free))
    if lines and not wait and pool.most is None:
        numbers = ",".join(str(gpu.index) for gpu in free)
        lines.append(f"Free now: {numbers}. Choose with --gpus {numbers}," if free else "None is free now;")
        raise UserError("\n".join([*lines[:-1], f"{lines[-1]} or let trials wait with --wait."]))
    return pool
