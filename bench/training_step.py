"""Measure one training step on a GPU: tokens a second, peak memory, and where the device's time goes.

    python bench/training_step.py MODEL@DIMxDEPTH ... [--batch 32] [--chunk 512] [--no-breakdown] [--json]

* The step is the one that `elmanctl train` runs: LadderLM, bf16 autocast, AdamW, one CUDA graph. Data are random bytes.
* tok/s: the median over the steps after the first 20 of 80. The breakdown is the profiler's, over 10 further steps, by kernel name; what
  it cannot name is `other`, and the device's idle time is the rest of the step.
"""

import argparse
import re
import statistics
import sys

import numpy as np
import torch

from elmanctl.console import print_json
from elmanctl.model import LadderLM, parameter_count
from elmanctl.optim import Optimizer
from elmanctl.plugins.registry import registry
from elmanctl.records import WARM_STEPS, Training
from elmanctl.step import DeviceStep

STEPS, PROFILED = 80, 10
# The first pattern that a kernel's name contains decides.
KINDS = {
    "recurrence": r"elman::|elman_|chunk_|_chunk|selective|ssd|_bmm_|state_passing",
    "product": r"nvjet|gemm|gemv|cutlass|xmma|splitKreduce|cublas",
    "norm": r"layer_norm|rms|triton_(per|red)_fused",
    "optimizer": r"multi_tensor_apply|FusedAdam|lpnorm|LpNorm",
    "loss": r"softmax|nll_loss|indexSelect|embedding|index_",
    "fill or copy": r"Memset|Memcpy|fill|copy|CatArray",
}


def kind_of(kernel: str) -> str:
    """Return which part of a step a kernel's name speaks for."""
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, kernel, re.IGNORECASE)), "other")


def measure(model: str, dim: int, depth: int, batch: int, chunk: int, breakdown: bool) -> dict:
    """Return tok/s, milliseconds a step, peak memory in GiB, and milliseconds a step by kind of kernel."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    torch.manual_seed(0)
    device, training = torch.device("cuda"), Training(batch=batch, chunk=chunk)
    built = LadderLM(registry().resolve(model), dim, depth).to(device)
    step = DeviceStep(built, Optimizer(built, training, device), (batch, chunk + 1), device, graph=True)
    random = np.random.default_rng(0)
    batches = [random.integers(32, 127, (batch, chunk + 1), dtype=np.uint8) for _ in range(8)]
    step.prepare(batches[0])
    step.start_clock(0.0)
    for number in range(STEPS):
        step.launch(batches[number % 8], training.lr)
    ends = [outcome.seconds for outcome in step.collect(wait=True)]
    seconds = statistics.median(b - a for a, b in zip(ends[WARM_STEPS:], ends[WARM_STEPS + 1 :], strict=False))
    row = {
        "model": model,
        "dim": dim,
        "depth": depth,
        "batch": batch,
        "chunk": chunk,
        "params": parameter_count(built),
        "ms_per_step": 1e3 * seconds,
        "tokens_per_second": batch * chunk / seconds,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30,
    }
    if breakdown:
        row["breakdown_ms"], row["longest_other"] = profile(step, batches, training.lr)
    return row


def profile(step: DeviceStep, batches: list[np.ndarray], lr: float) -> tuple[dict[str, float], list[str]]:
    """Return milliseconds a step by kind, and the names of the longest kernels among `other`."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        for number in range(PROFILED):
            step.launch(batches[number % 8], lr)
        step.collect(wait=True)
    spent = dict.fromkeys((*KINDS, "other"), 0.0)
    unnamed: dict[str, float] = {}
    for event in profiler.key_averages():
        milliseconds = event.self_device_time_total / 1e3 / PROFILED
        kind = kind_of(event.key)
        spent[kind] += milliseconds
        if kind in ("other", "fill or copy"):
            unnamed[event.key] = milliseconds
    longest = sorted(unnamed, key=unnamed.get, reverse=True)[:6]
    return spent, [f"{unnamed[name]:.2f} ms {name[:110]}" for name in longest]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", nargs="+", metavar="MODEL@DIMxDEPTH")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--chunk", type=int, default=512)
    parser.add_argument("--no-breakdown", action="store_true", help="tokens a second and memory only")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    chosen = parser.parse_args()
    if not torch.cuda.is_available():
        print("There is no GPU here that torch can use; this measures nothing else.", file=sys.stderr)
        return 2
    rows = []
    for text in chosen.models:
        found = re.fullmatch(r"(.+)@(\d+)x(\d+)", text)
        if not found:
            parser.error(f"{text}: write MODEL@DIMxDEPTH, for example E88h32n16@2432x20")
        row = measure(found[1], int(found[2]), int(found[3]), chosen.batch, chosen.chunk, not chosen.no_breakdown)
        rows.append(row)
        if not chosen.json:
            show(row)
    if chosen.json:
        print_json(rows)
    return 0


def show(row: dict) -> None:
    """Print one model's lines."""
    print(
        f"{row['model']} {row['dim']}x{row['depth']} B={row['batch']} T={row['chunk']}: {row['params'] / 1e6:.1f} M, "
        f"{row['tokens_per_second'] / 1e3:.0f} K tok/s, {row['ms_per_step']:.2f} ms a step, peak {row['peak_gib']:.2f} GiB",
        flush=True,
    )
    spent = row.get("breakdown_ms")
    if spent:
        total = row["ms_per_step"]
        outside = total - spent["recurrence"] - spent["product"]
        print("  " + ", ".join(f"{k} {v:.2f} ms" for k, v in spent.items()) + f"; outside both {outside / total:.0%}")
        for text in row["longest_other"]:
            print(f"    {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
