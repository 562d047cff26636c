"""Logs of the earlier tools, read into records: the one place where printed text is parsed, because text is all they left.

* A line is `step N | loss X | lr X | grad X | tok/s N`, perhaps followed by more; its loss is the mean over the steps since the line before.
* NaN and infinity are numbers here: a run that met one is `diverged`, without a loss.
* The loss over the last 100 steps is known where the lines before the end cover exactly 100 steps; elsewhere the record says why it is not.
"""

import hashlib
import itertools
import math
import re
import shlex
from pathlib import Path

import msgspec

from elmanctl.errors import UserError
from elmanctl.records import LAST, Result, Step, last100_loss, throughput

NUMBER = r"([-+]?(?:nan|inf(?:inity)?|[0-9.]+(?:e[-+]?[0-9]+)?))"
LINE = re.compile(
    rf"step\s+(\d+)\s*\|\s*loss\s+{NUMBER}(?:\s*\|\s*lr\s+{NUMBER})?(?:\s*\|\s*grad\s+{NUMBER})?(.*)", re.IGNORECASE
)
FP32_MAX = 3.4028235e38
SPEED = re.compile(rf"tok/s\s+{NUMBER}", re.IGNORECASE)
FACTS = {
    "command": re.compile(r"^# Command: (.+)$", re.MULTILINE),
    "level": re.compile(r"^Model: Level (\S+?),", re.MULTILINE),
    "params": re.compile(r"^Model: .*?([\d,]+) parameters", re.MULTILINE),
    "batch": re.compile(r"^Batch size: (\d+)", re.MULTILINE),
    "chunk": re.compile(r"Chunk size: (\d+)"),
    "accumulation": re.compile(r"^Gradient accumulation: (\d+)", re.MULTILINE),
    "start": re.compile(r"^Starting training from step (\d+)", re.MULTILINE),
    "end": re.compile(r"^Training complete! Final step: (\d+)", re.MULTILINE),
    "printed": re.compile(rf"^FINAL_LOSS_LAST100: {NUMBER}", re.MULTILINE),
    "memory": re.compile(r"^PEAK_MEMORY_MB: (\d+)", re.MULTILINE),
}
OUT_OF_MEMORY = re.compile(r"OutOfMemoryError|CUDA out of memory")
FAILED = re.compile(r"^(Traceback \(most recent call last\)|Segmentation fault|.*CUDA error)", re.MULTILINE)


class Logged(msgspec.Struct, frozen=True, kw_only=True):
    """One log line: means over `steps` steps up to `step`; seconds of training so far, as far as the printed speed tells; target tokens of its steps.

    `lr` and `grad_norm` are None where what was printed is not finite, which JSON has no number for.
    """

    step: int
    loss: float
    lr: float | None
    grad_norm: float | None
    seconds: float
    tokens: int
    steps: int


class Log(msgspec.Struct, frozen=True, kw_only=True):
    """A log as read: what it says about the run, its lines, and the result that they amount to."""

    name: str
    source: str
    hash: str
    model: str
    params: int | None
    dim: int | None
    depth: int
    command: str
    batch: int
    chunk: int
    accumulation: int
    every: int
    lines: tuple[Logged, ...]
    result: Result


def unfold(lines: list[Logged]) -> list[Step]:
    """Return log lines as steps: each line's steps have its loss and share its time and tokens evenly."""
    steps, before = [], 0.0
    for line in lines:
        each = (line.seconds - before) / line.steps
        steps += [
            Step(
                step=line.step - line.steps + i,
                loss=line.loss,
                lr=line.lr,
                grad_norm=line.grad_norm,
                seconds=before + each * i,
                tokens=line.tokens // line.steps,
            )
            for i in range(1, line.steps + 1)
        ]
        before = line.seconds
    return steps


def read(path: Path) -> Log:
    """Read one log.

    Raises:
        UserError: when the file cannot be read or is no such log.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from None
    text = content.decode("utf-8", errors="replace").replace("\r", "\n")
    facts = {name: found[1] if (found := pattern.search(text)) else "" for name, pattern in FACTS.items()}
    matches = list(LINE.finditer(text))
    if not matches and not (facts["level"] or facts["command"]):
        raise UserError(f"{path} is no log of the earlier tools: neither a step line nor a model or command is in it.")
    options = _options(facts["command"])
    number = {
        name: int(facts[name].replace(",", "") or 0) for name in ("params", "batch", "chunk", "accumulation", "start")
    }
    batch = number["batch"] or int(options.get("batch_size", 0))
    chunk = number["chunk"] or int(options.get("chunk_size", 0))
    every, lines, bad = _lines(matches, number["start"], batch, chunk)
    accumulation = number["accumulation"] or 1
    last100, basis = _last100(lines, every, accumulation, facts)
    status, message = _status(text, facts, matches, bad)
    steps = unfold(lines)
    return Log(
        name=re.sub(r"^\d+_", "", Path(path).stem),
        source=str(path),
        hash=f"sha256:{hashlib.sha256(content).hexdigest()}",
        model=options.get("level") or facts["level"] or Path(path).stem,
        params=number["params"] or None,
        dim=int(options["dim"]) if options.get("dim", "").isdigit() else None,
        depth=int(options["depth"]) if options.get("depth", "").isdigit() else 0,
        command=facts["command"],
        batch=batch,
        chunk=chunk,
        accumulation=accumulation,
        every=every,
        lines=tuple(lines),
        result=Result(
            status=status,
            steps=max(int(facts["end"] or 0), lines[-1].step if lines else 0) if bad is None else bad,
            tokens=sum(line.tokens for line in lines),
            seconds=lines[-1].seconds if lines else 0.0,
            last100_loss=last100 if status == "ok" else None,
            tokens_per_second=throughput(steps) if batch and chunk else None,
            peak_memory_bytes=int(facts["memory"]) << 20 if facts["memory"] else None,
            execution="imported",
            message=" ".join(filter(None, (message, basis))),
        ),
    )


def _options(command: str) -> dict[str, str]:
    """Return the `--name value` pairs of a command line."""
    try:
        words = shlex.split(command)
    except ValueError:
        words = command.split()
    return {a.removeprefix("--"): b for a, b in itertools.pairwise(words) if a.startswith("--")}


def _lines(matches: list[re.Match], start: int, batch: int, chunk: int) -> tuple[int, list[Logged], int | None]:
    """Return how many steps a line covers, the lines up to the first that is not finite, and the step before that one, if any."""
    numbers = [int(m[1]) for m in matches]
    gaps = [b - a for a, b in zip([start, *numbers], numbers, strict=False) if b > a]
    every = min(gaps, default=1)
    lines: list[Logged] = []
    seconds = 0.0
    for m in matches:
        step, loss = int(m[1]), _number(m[2])
        if not _held(loss):
            return every, lines, lines[-1].step if lines else start
        if lines and step <= lines[-1].step:
            continue  # a log that was appended to: the first run's lines stay
        speed = SPEED.search(m[5] or "")
        per_second = _number(speed[1]) if speed else 0.0
        # The earlier tools counted chunk + 1 bytes of each row.
        seconds += every * batch * (chunk + 1) / per_second if per_second > 0 and math.isfinite(per_second) else 0.0
        lr, norm = (n if math.isfinite(n := _number(m[i])) else None for i in (3, 4))
        lines.append(
            Logged(
                step=step, loss=loss, lr=lr, grad_norm=norm, seconds=seconds, tokens=every * batch * chunk, steps=every
            )
        )
    return every, lines, None


def _number(text: str | None) -> float:
    try:
        return float(text) if text else 0.0
    except ValueError:
        return 0.0


def _held(loss: float) -> bool:
    """Return whether a loss is finite in fp32, in which the tools computed it; sums of greater ones overflow."""
    return abs(loss) <= FP32_MAX


def _last100(lines: list[Logged], every: int, accumulation: int, facts: dict[str, str]) -> tuple[float | None, str]:
    """Return the loss over the last 100 steps where the lines tell it, and how they do or why not."""
    printed = f" The log's own figure, {facts['printed']}, averages up to 100 log lines." if facts["printed"] else ""
    if not lines:
        return None, "No step was logged."
    if accumulation != 1:
        return None, f"Last-100 unknown: the printed loss is a sum over {accumulation} accumulated batches.{printed}"
    if LAST % every:
        return None, f"Last-100 unknown: a line covers {every} steps, which do not make up {LAST}.{printed}"
    last = lines[-LAST // every :]
    if len(last) * every < LAST or last[-1].step - last[0].step != LAST - every:
        return None, f"Last-100 unknown: the last lines do not cover {LAST} steps in a row.{printed}"
    loss = last100_loss([msgspec.structs.replace(s, tokens=1) for s in unfold(last)])
    end = f" of {facts['end']}" if facts["end"] and int(facts["end"]) != last[-1].step else ""
    return loss, f"Last-100 by steps, from {len(last)} lines of {every}, to step {last[-1].step}{end}.{printed}"


def _status(text: str, facts: dict[str, str], matches: list[re.Match], bad: int | None) -> tuple[str, str]:
    if bad is not None:
        m = next(m for m in matches if not _held(_number(m[2])))
        return "diverged", f"loss {m[2]} at the line of step {m[1]}."
    if facts["end"]:
        return "ok", ""
    last = next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
    if OUT_OF_MEMORY.search(text):
        return "oom", last
    if FAILED.search(text) or not matches:
        return "failed", last
    return "interrupted", "The log ends before the run did."
