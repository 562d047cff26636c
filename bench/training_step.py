"""Measure one training step on a GPU, for each of several models: tokens a second, peak memory, and where the device's time goes.

    python bench/training_step.py MODEL@DIMxDEPTH[:BATCHxCHUNK] ... [--table] [--out FOLDER]

* The step is the one that `elmanctl train` runs: LadderLM, bf16 autocast, AdamW, one CUDA graph. Data are random bytes.
* tok/s: the median over the steps after the first 20 of 80. The breakdown is the profiler's, over 10 further steps, by kernel name; what
  it cannot name is `other`, and the device's idle time is the rest of the step.
* Rows are measured in a process that is not this one. A row that fails (absent package, out of memory, no end in sight) is a row with its
  reason; after an error that may have damaged the process, the rows left go to a new one.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

from elmanctl.markdown import table

STEPS, PROFILED = 80, 10
TABLE = Path(__file__).with_suffix(".txt")  # what is compared in docs/performance.md
# The first pattern that a kernel's name contains decides.
KINDS = {
    "recurrence": r"elman::|elman_|chunk_|_chunk|selective|ssd|_bmm_|state_passing|RNN_|RNNcell|elemWiseRNN|persistRNN",
    "product": r"nvjet|gemm|gemv|cutlass|xmma|splitKreduce|cublas",
    "norm": r"layer_norm|add_norm|weight_gradient|rms|triton_(per|red)_fused",
    "optimizer": r"adamw_|multi_tensor_apply|FusedAdam|lpnorm|LpNorm",
    "loss": r"softmax|nll_loss|indexSelect|embedding|index_",
    "fill or copy": r"Memset|Memcpy|fill|copy|CatArray",
}
FATAL = 3  # exit code of a child whose CUDA context may be damaged
ROW = "row "  # begins a line of a child's output that is a record


class Row(NamedTuple):
    """One model at one size."""

    model: str
    dim: int
    depth: int
    batch: int
    chunk: int


def parsed(text: str, batch: int, chunk: int) -> Row:
    """Read `MODEL@DIMxDEPTH` or `MODEL@DIMxDEPTH:BATCHxCHUNK`."""
    found = re.fullmatch(r"(.+)@(\d+)x(\d+)(?::(\d+)x(\d+))?", text)
    if not found:
        raise SystemExit(f"{text}: write MODEL@DIMxDEPTH[:BATCHxCHUNK], for example E88h32n16@2432x20:4x4096.")
    return Row(found[1], int(found[2]), int(found[3]), int(found[4] or batch), int(found[5] or chunk))


def kind_of(kernel: str) -> str:
    """Return which part of a step a kernel's name speaks for."""
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, kernel, re.IGNORECASE)), "other")


def measure(row: Row, settings: dict, breakdown: bool) -> dict:
    """Return tok/s, milliseconds a step, peak memory in GiB, and milliseconds a step by kind of kernel."""
    import statistics

    import numpy as np
    import torch

    from elmanctl.model import LadderLM, parameter_count
    from elmanctl.optim import Optimizer
    from elmanctl.plugins.registry import registry
    from elmanctl.records import WARM_STEPS, Training
    from elmanctl.step import DeviceStep

    torch.cuda.reset_peak_memory_stats()
    torch.manual_seed(0)
    device, training = torch.device("cuda"), Training(batch=row.batch, chunk=row.chunk)
    model = LadderLM(registry().resolve(row.model), row.dim, row.depth, **settings).to(device)
    step = DeviceStep(model, Optimizer(model, training, device), (row.batch, row.chunk + 1), device, graph=True)
    random = np.random.default_rng(0)
    batches = [random.integers(32, 127, (row.batch, row.chunk + 1), dtype=np.uint8) for _ in range(8)]
    step.prepare(batches[0])
    step.start_clock(0.0)
    for number in range(STEPS):
        step.launch(batches[number % 8], training.lr)
    ends = [outcome.seconds for outcome in step.collect(wait=True)]
    seconds = statistics.median(b - a for a, b in zip(ends[WARM_STEPS:], ends[WARM_STEPS + 1 :], strict=False))
    found = {
        "on": f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}",
        "params": parameter_count(model),
        "ms_per_step": 1e3 * seconds,
        "tokens_per_second": row.batch * row.chunk / seconds,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30,
    }
    if breakdown:
        spent, found["longest_other"] = profile(step, batches, training.lr)
        found["breakdown_ms"] = spent
        found["outside"] = 1 - (spent["recurrence"] + spent["product"]) / found["ms_per_step"]
    return found


def profile(step, batches: list, lr: float) -> tuple[dict[str, float], list[str]]:
    """Return milliseconds a step by kind, and the names of the longest kernels among `other` and `fill or copy`."""
    import torch

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        for number in range(PROFILED):
            step.launch(batches[number % 8], lr)
        step.collect(wait=True)
    events = {event.key: event.self_device_time_total / 1e3 / PROFILED for event in profiler.key_averages()}
    spent = dict.fromkeys((*KINDS, "other"), 0.0)
    for name, milliseconds in events.items():
        spent[kind_of(name)] += milliseconds
    longest = sorted((n for n in events if kind_of(n) in ("other", "fill or copy")), key=events.get, reverse=True)[:6]
    return spent, [f"{events[name]:.2f} ms {name[:110]}" for name in longest]


def child(rows: list[Row], settings: dict, breakdown: bool) -> int:
    """Measure rows one after the other and write a line for each, freeing what each took."""
    import gc

    import torch

    for row in rows:
        fatal = False
        try:
            found = measure(row, settings, breakdown)
        except torch.OutOfMemoryError:
            found = {"note": f"out of memory on {torch.cuda.get_device_properties(0).total_memory / 2**30:.0f} GiB"}
        except Exception as error:  # the reason is the row's, whatever it is
            fatal = isinstance(error, RuntimeError)
            found = {"note": f"{type(error).__name__}: {error}".splitlines()[0][:300]}
        print(f"{ROW}{json.dumps(found)}", flush=True)
        if fatal:
            return FATAL
        gc.collect()
        torch.cuda.empty_cache()
        torch.compiler.reset()  # a function may be compiled for so many shapes and no more
    return 0


def measured(rows: list[Row], command: list[str], row_seconds: float, seconds: float):
    """Yield a record for each row, made by children: `command` and the rows that are left, as JSON.

    Args:
        row_seconds: a child that is silent for so long is ended, and its row has that as its reason.
        seconds: rows that begin later than that are not measured.
    """
    deadline, left = time.monotonic() + seconds, [row._asdict() for row in rows]
    while left:
        if time.monotonic() > deadline:
            yield from (row | {"note": f"not reached in {seconds:g} s"} for row in left)
            return
        with tempfile.TemporaryFile("w+") as said:
            process = subprocess.Popen([*command, json.dumps(left)], stdout=subprocess.PIPE, stderr=said, text=True)
            timer = _killer(process, row_seconds)
            for line in process.stdout:
                if line.startswith(ROW) and left:
                    timer.cancel()
                    yield left.pop(0) | json.loads(line.removeprefix(ROW))
                    if time.monotonic() > deadline:
                        process.kill()
                        break
                    timer = _killer(process, row_seconds)
            timer.cancel()
            code = process.wait()
            if left and code != FATAL and time.monotonic() <= deadline:
                said.seek(0)
                last = (said.read().strip().splitlines() or ["no output"])[-1][:300]
                yield left.pop(0) | {"note": f"the process ended with code {code}: {last}"}


def _killer(process: subprocess.Popen, seconds: float) -> threading.Timer:
    timer = threading.Timer(seconds, process.kill)
    timer.daemon = True
    timer.start()
    return timer


def text(row: dict) -> str:
    """Return one row's lines for a terminal."""
    head = f"{row['model']} {row['dim']}x{row['depth']} B={row['batch']} T={row['chunk']}: "
    if "note" in row:
        return head + row["note"]
    head += (
        f"{row['params'] / 1e6:.1f} M, {row['tokens_per_second'] / 1e3:.0f} K tok/s, {row['ms_per_step']:.2f} ms a step, "
        f"peak {row['peak_gib']:.2f} GiB"
    )
    if "breakdown_ms" not in row:
        return head
    kinds = ", ".join(f"{kind} {spent:.2f} ms" for kind, spent in row["breakdown_ms"].items())
    lines = [head, f"  {kinds}; outside both {row['outside']:.0%}", *(f"    {x}" for x in row["longest_other"])]
    return "\n".join(lines)


def markdown(rows: list[dict]) -> str:
    """Return the rows as a Markdown table, and on what they were measured; `outside both` is the share of the step outside recurrence and products."""
    kinds, lines = [*KINDS, "other"], []
    columns = ["model", "B x T", "parameters", "tok/s", "step, ms", *kinds, "outside both", "peak GiB"]
    for row in rows:
        line = [f"{row['model']} {row['dim']}x{row['depth']}", f"{row['batch']} x {row['chunk']}"]
        if "note" in row:
            lines.append([*line, row["note"].replace("|", "/"), *[""] * (len(columns) - 3)])
            continue
        spent = row.get("breakdown_ms")
        line += [f"{row['params'] / 1e6:.1f} M", f"{row['tokens_per_second'] / 1e3:.0f} K", f"{row['ms_per_step']:.2f}"]
        line += [f"{spent[kind]:.2f}" if spent else "" for kind in kinds]
        lines.append([*line, f"{row['outside']:.0%}" if spent else "", f"{row['peak_gib']:.2f}"])
    places = [f"\n{place}\n" for place in dict.fromkeys(row["on"] for row in rows if "on" in row)]
    return "".join([f"{line}\n" for line in table(columns, lines, columns[2:])] + places)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", nargs="*", metavar="MODEL@DIMxDEPTH[:BATCHxCHUNK]")
    parser.add_argument("--table", action="store_true", help="the rows of docs/performance.md, before those given")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--chunk", type=int, default=512)
    parser.add_argument("--checkpoint-layers", type=int, default=0)
    parser.add_argument("--loss-chunks", type=int, default=1)
    parser.add_argument("--no-breakdown", action="store_true", help="tokens a second and memory only")
    parser.add_argument("--row-seconds", type=float, default=300, help="longest time of a row, compiling included")
    parser.add_argument("--seconds", type=float, default=560, help="rows that would begin later are left out")
    parser.add_argument("--out", type=Path, help="folder for training_step.json and training_step.md")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    settings = {"checkpoint_layers": chosen.checkpoint_layers, "loss_chunks": chosen.loss_chunks}
    if chosen.child:
        return child([Row(**row) for row in json.loads(chosen.child)], settings, not chosen.no_breakdown)
    wanted = [*(TABLE.read_text().split() if chosen.table else []), *chosen.models]
    rows = [parsed(each, chosen.batch, chosen.chunk) for each in wanted]
    if not rows:
        parser.error("name a model, or give --table")
    command = [sys.executable, __file__, *(f"--{k.replace('_', '-')}={v}" for k, v in settings.items())]
    command += ["--no-breakdown"] * chosen.no_breakdown + ["--child"]
    found = []
    for row in measured(rows, command, chosen.row_seconds, chosen.seconds):
        found.append(row | settings)
        print(text(row), flush=True)
        if chosen.out:  # after each row: a call that is cut off keeps what it has
            chosen.out.mkdir(parents=True, exist_ok=True)
            (chosen.out / "training_step.json").write_text(json.dumps(found, indent=1) + "\n")
            (chosen.out / "training_step.md").write_text(markdown(found))
    print(f"\n{markdown(found)}", end="")
    return 0 if not any("note" in row for row in found) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
