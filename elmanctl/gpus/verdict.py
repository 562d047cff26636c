"""What a witness's samples say of a run: `clean`, `contaminated` with the evidence, `blind` or `unwatched`; written to `witness.json`.

A contaminated run keeps its numbers and is marked; nothing is dropped. `blind`: nothing speaks against the run, and processes of others
could not have been seen.
"""

import statistics
import time
from pathlib import Path

import msgspec

from elmanctl.files import read_json, write_json
from elmanctl.gpus.witness import ASSUMED, BLIND, Sample, read
from elmanctl.records import Result
from elmanctl.runlog import RESULT
from elmanctl.sizes import short_bytes

VERDICT = "witness.json"
THROTTLED_SHARE = 0.05  # of the samples; single ones come with every change of load
# NVML's bits. A power cap in software is how such a device runs at full load; it is recorded and does not count.
THROTTLES = {0x08: "hardware slowdown", 0x20: "heat (software)", 0x40: "heat (hardware)", 0x80: "power brake"}
# A CUDA context alone is larger, and torch gives no memory back while it trains.
FALL = 256 * 2**20
NOTES = {
    ASSUMED: "NVML lists pids of another namespace here (a container): the first that came after the launch was taken for the trial's own",
    BLIND: "NVML lists no processes here though memory is in use (a container): of others only one that ended meanwhile would show, by "
    "the memory that it gave back",
}


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What the samples say. Means over all samples; `throttled` is the share of samples with each cause; `notes` say what was not seen."""

    verdict: str
    evidence: tuple[str, ...] = ()
    samples: int = 0
    clock: float | None = None
    power: float | None = None
    temperature_max: int | None = None
    throttled: dict[str, float] = msgspec.field(default_factory=dict)
    foreign: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    schema: int = 1

    def text(self) -> str:
        """Return the verdict with the means that a speed depends on: `clean: 1980 MHz, 650 W, at most 61 C`."""
        facts = [f"{self.clock:.0f} MHz"] if self.clock is not None else []
        facts += [f"{self.power:.0f} W"] if self.power is not None else []
        facts += [f"at most {self.temperature_max} C"] if self.temperature_max is not None else []
        return ": ".join(filter(None, (self.verdict, ", ".join(facts))))


def judge(samples: list[Sample], left: str = "") -> Verdict:
    """Return what the samples of a run say; `left` says which memory was still held after its end."""
    if not samples:
        return Verdict(verdict="unwatched")
    each = {gpu: [s for s in samples if s.gpu == gpu] for gpu in dict.fromkeys(s.gpu for s in samples)}
    evidence = [text for gpu, mine in each.items() for text in _evidence(mine, gpu if len(each) > 1 else "the GPU")]
    if left and any(s.sight == BLIND for s in samples):
        evidence.append(f"by a process that is not listed, {left}")
    shares = {name: _share(samples, bit) for bit, name in THROTTLES.items()}
    notes = tuple(text for sight, text in NOTES.items() if any(s.sight == sight for s in samples))

    def known(name: str) -> list:
        return [value for s in samples if (value := getattr(s, name)) is not None]

    return Verdict(
        verdict="contaminated" if evidence else "blind" if NOTES[BLIND] in notes else "clean",
        evidence=tuple(evidence),
        samples=len(samples),
        clock=statistics.fmean(known("clock")) if known("clock") else None,
        power=statistics.fmean(known("power")) if known("power") else None,
        temperature_max=max(known("temperature"), default=None),
        throttled={name: share for name, share in shares.items() if share},
        foreign=tuple(sorted({name for s in samples for name in s.foreign})),
        notes=notes,
    )


def _evidence(samples: list[Sample], gpu: str) -> list[str]:
    """Return what speaks against a run on one of its GPUs."""
    found = []
    if seen := [s for s in samples if s.foreign]:
        who = sorted({name for s in seen for name in s.foreign})
        found.append(
            f"processes of others on {gpu} in {len(seen)} of {len(samples)} samples, "
            f"{_clock(seen[0])} to {_clock(seen[-1])}: {', '.join(who[:5])}"
        )
    # The last sample may be of the trial's own end; what fell before it stays down.
    falls = [
        (after, before.memory - after.memory)
        for before, after, later in zip(samples, samples[1:], samples[2:], strict=False)
        if BLIND in (before.sight, after.sight)
        and before.training
        and after.training
        and min(before.memory - after.memory, before.memory - later.memory) > FALL
    ]
    found += [
        f"{short_bytes(size)} of memory on {gpu} were given back at {_clock(after)} by a process that is not listed"
        for after, size in falls
    ]
    shares = {name: _share(samples, bit) for bit, name in THROTTLES.items()}
    found += [
        f"{'throttled' if gpu == 'the GPU' else f'{gpu} throttled'} by {name} in {share:.0%} of the samples"
        for name, share in shares.items()
        if share > THROTTLED_SHARE
    ]
    if faults := sorted({s.fault for s in samples if s.fault}):
        found.append(f"{gpu} {', '.join(faults)}")
    return found


def _share(samples: list[Sample], bit: int) -> float:
    return sum(bool(s.throttle & bit) for s in samples) / len(samples)


def _clock(sample: Sample) -> str:
    return time.strftime("%H:%M:%S", time.localtime(sample.time))


def conclude(folder: Path, status: str, left: str = "") -> str:
    """Write the verdict on a finished trial; an `ok` result that is contaminated is marked so. Returns the status as it then is.

    Args:
        left: which memory was still held after the trial's end, an empty text where none was.
    """
    samples = read(folder)
    if not samples:
        return status
    verdict = judge(samples, left)
    write_json(folder / VERDICT, verdict)
    if status != "ok" or (verdict.verdict == "clean" and not verdict.notes):
        return status
    result = read_json(folder / RESULT, Result)
    warnings = dict.fromkeys(
        (*result.warnings, *(f"{note}." for note in verdict.notes))
    )  # once, however often it is settled
    result = msgspec.structs.replace(result, warnings=tuple(warnings))
    if verdict.verdict == "contaminated":
        message = f"Contaminated: {'; '.join(verdict.evidence)}."
        result = msgspec.structs.replace(result, status="contaminated", message=message)
    write_json(folder / RESULT, result)
    return result.status
