"""Whether the cost of a recurrence at constant tokens can be flat in T: the chain of dependent operations that a step cannot do without,
measured beside the passes themselves in one run on one GPU of compute capability 9.0 or later.

    python bench/chains.py [--out FILE]

* passes: each model's kernel forward and with backward at 32768 tokens, B=64, T=512 to B=1, T=32768, timed as `elmanctl bench --kernels` does.
* flat: what the time at T=512 and 10 per cent leave for a step of both passes at T=32768, whose steps follow each other.
* E88's least chain, forward: the hardware's approximate tanh, a product, log2 n additions, for the sum of n elements of a row is in the next
  tanh; everything else of a step made before, a row in one lane, so that no shuffle is needed, nothing loaded and nothing stored. Backward: the
  product and the additions, all states kept, so that no tanh is needed. Nothing that makes step after step in fp32 is faster, at any cost.
* E42's least chain: in each pass one word from a multiprocessor to another, since none holds W (4.7 MB in bf16; it has 0.5) or reads it within
  a step; the faster of the L2 cache, over several blocks and places, and a neighbour's shared memory in a cluster. The product counts nothing.
* written: the same operation by operation as the kernels have it, E42's from its parts (exchange through the L2 cache, mma of a warp, one
  barrier), still without loads, stores, waits for producers and the sums over warps. For comparison; no verdict is taken from it.
* state of 128 x 128 in shared memory: what a step of such a state costs at least if it lies there; the matrix family keeps it in registers.
* diagonal: the forward step of E74's diagonal state; its backward step, all states kept, is one `fma`.
* Outside this are methods that are parallel in time or join steps: E42 is linear in its state, and so is the gradient of either model where
  the states are known.
"""

import argparse
import ctypes
import itertools
import json
import math
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from elmanctl import launch
from elmanctl.console import note
from elmanctl.kernelbench import ahead, run, shapes
from elmanctl.kernelbench.shapes import Shape
from elmanctl.plugins.registry import registry
from elmanctl.toolchain import compiler, execute
from elmanctl.verify import receipt

SOURCE = Path(__file__).with_name("chains.cu")
MARGIN = 1.1  # "flat within 10 %"
SECONDS = 8  # for the passes of a model, about
SHORT, LONG, REPEATS = 1 << 15, 1 << 17, 5  # steps of a chain; the difference of two lengths has no launch in it
TRIPS, MORE_TRIPS = 1 << 9, 1 << 12
PEERS, PLACES = 12, 6  # blocks and places in memory between which the trip through the L2 cache is tried
EXCHANGED = "L2 cache, median"
TRIP = "faster trip"
WARP_MMA = 8  # of a warp on one sum, D=1536 over 12 warps: 4 chunks of 32 terms


class Model(NamedTuple):
    """A model, the width it is timed at, and the parts of its chains, forward and backward together."""

    name: str
    dim: int
    least: tuple[str, ...]
    written: tuple[str, ...]


MODELS = (
    Model("E88h8n32", 4736, ("forward 32", "backward 32"), ("forward 8 x 4", "backward 4 x 8")),
    Model("E88h32n16", 2432, ("forward 16", "backward 16"), ("forward 4 x 4", "backward 4 x 4")),
    Model("E42", 1536, (TRIP,) * 2, (EXCHANGED, *("mma",) * WARP_MMA, "barrier") * 2),
)


class Cost(NamedTuple):
    """Nanoseconds and cycles of one step."""

    ns: float
    cycles: float


Measure = Callable[..., Cost]  # (name, steps, peer=1, place=0) -> of a whole run


def compiled(target: str, folder: Path) -> Path:
    """Compile the chains for a target such as `sm_90a`; return the library."""
    library = folder / "chains.so"
    flags = ["-O3", "-std=c++20", "-Xcompiler=-fPIC", f"-gencode=arch=compute_{target[3:]},code={target}"]
    execute([compiler(target)[0], *flags, "-shared", "-cudart=static", str(SOURCE), "-o", str(library)])
    return library


def loaded(library: Path) -> tuple[list[str], Measure]:
    """Return the names of a library's chains, and a function that runs one of them, or the trip `memory` or `cluster`.

    Raises:
        RuntimeError: with the device's error.
    """
    handle = ctypes.CDLL(str(library))
    handle.chains_name.restype = handle.chains_run.restype = ctypes.c_char_p
    number = ctypes.POINTER(ctypes.c_double)
    handle.chains_run.argtypes = [ctypes.c_char_p, ctypes.c_int64, *(ctypes.c_int,) * 3, number, number]

    def measure(name: str, steps: int, peer: int = 1, place: int = 0) -> Cost:
        ns, cycles = ctypes.c_double(), ctypes.c_double()
        if error := handle.chains_run(name.encode(), steps, REPEATS, peer, place, ns, cycles):
            raise RuntimeError(f"{name}: {error.decode()}")
        return Cost(ns.value, cycles.value)

    return [name.decode() for name in itertools.takewhile(bool, map(handle.chains_name, itertools.count()))], measure


def one(measure: Measure, name: str, short: int, long: int, **where: int) -> Cost:
    """Return the cost of one step, from two lengths."""
    a, b = (measure(name, steps, **where) for steps in (short, long))
    return Cost((b.ns - a.ns) / (long - short), (b.cycles - a.cycles) / (long - short))


def costs(names: list[str], measure: Measure, blocks: int) -> dict[str, Cost]:
    """Return the cost of a step of every chain, and of one way of a word: `cluster`, through the L2 cache `fastest` and `median` over pairs
    of blocks and places, and the faster of all.

    Args:
        blocks: multiprocessors of the device.
    """
    one(measure, "fma", SHORT, 512 * LONG)  # until the clock is what it stays at
    found = {name: one(measure, name, SHORT, LONG) for name in names}

    def way(name: str, **where: int) -> Cost:
        return Cost(*(both / 2 for both in one(measure, name, TRIPS, MORE_TRIPS, **where)))

    found["cluster"] = way("cluster")
    peers = sorted({max(1, (i + 1) * (blocks - 1) // PEERS) for i in range(PEERS)})
    ways = sorted(way("memory", peer=peer, place=place) for peer in peers for place in range(PLACES))
    found["L2 cache, fastest"], found[EXCHANGED] = ways[0], ways[len(ways) // 2]
    found[TRIP] = min(found["cluster"], found["L2 cache, fastest"])
    return found


def total(parts: tuple[str, ...], found: dict[str, Cost]) -> Cost:
    """Return the cost of parts that follow each other."""
    return Cost(*(sum(column) for column in zip(*(found[part] for part in parts), strict=True)))


def left(first: run.Row, last: run.Row) -> float:
    """Return nanoseconds that a step of both passes at the last row may take for its passes to cost what those of the first do, and MARGIN."""
    return 1e3 * MARGIN * first.both[0] / last.T


def verdict(flat: float, chain: float, measured: float) -> str:
    """Say whether a step of both passes can take what being flat leaves for it; all in nanoseconds.

    A pass that is faster than the chain it cannot do without, or a figure that is not positive, says that something was measured wrongly.
    """
    if not all(math.isfinite(figure) and figure > 0 for figure in (flat, chain, measured)) or measured < chain:
        return "measured wrongly"
    if measured <= flat:
        return "is flat"
    return "cannot be" if chain > flat else "not excluded"


def timed(models: tuple[Model, ...], device: torch.device) -> dict[str, list[run.Row]]:
    """Return the rows of each model's own kernel, the shortest T first.

    Raises:
        RuntimeError: with the reason for a row without times.
        UserError: for a kernel without a receipt.
    """
    specs = {model: registry().resolve(model.name) for model in models}
    vouching = receipt.require(list(specs.values()), launch.target_of(torch.empty(0, device=device)))
    swept = {model: shapes.sweep(Shape(dim=model.dim), "T") for model in models}
    ahead.compile_all([(specs[model], shape) for model in models for shape in swept[model]], device, 8)
    found = {}
    for model, spec in specs.items():
        hashed = vouching[spec.name].source_hash[:12]
        rows = list(run.rows(spec, swept[model], device, hashed, seconds=SECONDS, alone=True))
        if missing := next((row for row in rows if not row.both), None):
            raise RuntimeError(f"{model.name} at B={missing.B} T={missing.T}: {missing.note}")
        found[model.name] = sorted(rows, key=lambda row: row.T)
    return found


def clock(found: dict[str, Cost]) -> float:
    """Return the clock in GHz while the chains ran."""
    return statistics.median(cost.cycles / cost.ns for cost in found.values())


def parts_table(found: dict[str, Cost]) -> list[str]:
    """Return a line for each chain."""
    lines = ["| operation or chain, of one step | cycles | ns |", "|---|---:|---:|"]
    return lines + [f"| {name} | {cost.cycles:.1f} | {cost.ns:.2f} |" for name, cost in found.items()]


def table(models: tuple[Model, ...], rows: dict[str, list[run.Row]], found: dict[str, Cost]) -> list[str]:
    """Return a line for each model, of both passes."""
    swept = [f"B={row.B}, T={row.T}" for row in rows[models[0].name]]
    heads = [f"ms, {place}" for place in swept]
    heads += ["ns a step, longest T", "flat leaves, ns", "least chain, ns", "times", "as written, ns"]
    lines = [f"| | {' | '.join(heads)} | flat at the longest T |", f"|---|{'---:|' * len(heads)}---|"]
    for model in models:
        own = rows[model.name]
        flat, measured = left(own[0], own[-1]), 1e3 * own[-1].both[0] / own[-1].T
        least, written = total(model.least, found), total(model.written, found)
        cells = [f"{row.both[0] / 1e3:.3f}" for row in own]
        cells += [f"{measured:.1f}", f"{flat:.1f} ({flat * clock(found):.0f} cycles)"]
        cells += [f"{least.ns:.1f} ({least.cycles:.0f})", f"{least.ns / flat:.2f}"]
        cells += [f"{written.ns:.1f} ({written.cycles:.0f})"]
        lines.append(f"| {model.name} | {' | '.join(cells)} | {verdict(flat, least.ns, measured)} |")
    return lines


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, help="file for the figures as JSON")
    chosen = parser.parse_args(arguments)
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() < (9, 0):
        print("This needs a GPU of compute capability 9.0 or later that torch can use.", file=sys.stderr)
        return 2
    device = torch.device("cuda", torch.cuda.current_device())
    with tempfile.TemporaryDirectory() as folder:
        names, measure = loaded(compiled(launch.target_of(torch.empty(0, device=device)), Path(folder)))
        found = costs(names, measure, torch.cuda.get_device_properties(device).multi_processor_count)
    # Each table as soon as it is known.
    print(f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}, chains at {clock(found):.3f} GHz\n")
    print("\n".join(parts_table(found)), flush=True)
    note("The passes follow, after their kernels are built.")
    rows = timed(MODELS, device)
    print(f"\nBoth passes; flat within {MARGIN - 1:.0%}.\n")
    print("\n".join(table(MODELS, rows, found)))
    if chosen.out:
        passes = {
            name: [{"B": r.B, "T": r.T, "forward": r.forward, "both": r.both} for r in own]
            for name, own in rows.items()
        }
        chosen.out.write_text(json.dumps({"chains": found, "passes_us": passes}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
