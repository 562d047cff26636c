"""What a training step of a model on the dense or tied family cannot beat on this GPU, beside the step measured in the same run.

    python bench/floors.py [MODEL@DIMxDEPTH[:BATCHxCHUNK]] [--rival rnn] [--out FILE]

* products: every matrix product of a step (the profiler's list, with shapes), each timed alone by the library in its fastest layout.
* norms: 12 bytes an element forward and 14 backward, and less at the ends: 10 in all for the first, which reads no x and writes no stream,
  22 for the second, which reads none, 18 for the last, which writes none and gets no gradient of one; optimizer: gradients read for their
  norm, then p, m, v read and written and the gradient read, 32 bytes a parameter. Both at the copy rate.
* recurrence: the kernel itself at the smallest product that keeps its groups and blocks (one tile of 16 channels a block), forward and
  backward: barrier, exchange and sums, which no faster product shortens. `with its product` adds the rest of the product at the library's
  rate of a large one; it can begin only when the exchange has come.
* The floor is their sum: nothing in a step runs beside the recurrence, which has a block on nearly every multiprocessor.
* Not counted: the norm of the weights, casts, the loss, the head's softmax, gaps between kernels.
"""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

import torch
from training_step import Row, measure, parsed

from elmanctl import launch
from elmanctl.kernelbench import ceilings
from elmanctl.kernelbench.clock import captured, interleaved
from elmanctl.kernelbench.inputs import capture
from elmanctl.model import LadderLM, parameter_count
from elmanctl.plugins.registry import registry
from elmanctl.step import autocast
from elmanctl.tiles import TILE

NORM_BYTES, ENDS_LESS, OPTIMIZER_BYTES = 12 + 14, 16 + 4 + 8, 32
PRODUCTS = {"aten::mm": 2, "aten::addmm": 3, "aten::bmm": 2}  # how many of the first inputs say the sizes
SMALL = ((16, 1), (8, 2), (4, 4))  # warps and chunks of the small kernel, of which the fastest counts, times 512 / D


def products(row: Row, device: torch.device) -> Counter:
    """Return how often a step multiplies [m, k] by [k, n], by (m, k, n)."""
    model = LadderLM(registry().resolve(row.model), row.dim, row.depth).to(device)
    tokens = torch.randint(0, 256, (row.batch, row.chunk + 1), device=device, dtype=torch.uint8)

    def step():
        with autocast(device):
            loss = model.loss(tokens)[0]
        loss.backward()

    step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True) as profiler:
        step()
    found: Counter = Counter()
    for event in profiler.key_averages(group_by_input_shape=True):
        if event.key in PRODUCTS:
            a, b = event.input_shapes[PRODUCTS[event.key] - 2 : PRODUCTS[event.key]]
            found[(*a[:-1], a[-1], b[-1]) if len(a) == 2 else (a[0] * a[1], a[2], b[2])] += event.count
    return found


def product_ms(sizes: tuple[int, int, int], sets: int = 4) -> float:
    """Return milliseconds of one product in bf16, in the fastest of the layouts."""
    m, k, n = sizes

    def draw(rows, columns, turned):
        made = [
            torch.randn(*((columns, rows) if turned else (rows, columns)), device="cuda").bfloat16()
            for _ in range(sets)
        ]
        return [t.mT if turned else t for t in made]

    layouts = [(draw(m, k, x), draw(k, n, y)) for x in (False, True) for y in (False, True)]
    out = torch.empty(m, n, device="cuda", dtype=torch.bfloat16)
    graphs = [captured(lambda i, a=a, b=b: torch.mm(a[i], b[i], out=out), sets) for a, b in layouts]
    return min(t.median for t in interleaved(graphs, sets)) / 1e3


def inner_width(row: Row) -> int:
    """Return the width of the state in a row's layers."""
    with torch.device("meta"):
        return registry().resolve(row.model).layers(row.dim)[0].inner


def smallest(row: Row, device: torch.device) -> tuple[float, float, int]:
    """Return microseconds a step, forward and backward without the product of the weight's gradient, of the kernel at the width of one tile a
    block, and that width."""
    spec = registry().resolve(row.model)
    kernel, reference = spec.variant.kernel(), spec.variant.module("reference")
    constants, like = spec.variant.module("binding").constants(spec.config), torch.empty(0, device=device)
    sizes = {"B": row.batch, "D": inner_width(row)}
    division = launch.build_constants(kernel, constants, sizes, "bfloat16", like)
    small = sizes["D"] // (TILE * division["TILES"]) * TILE
    call = capture(spec, small, row.batch, row.chunk, device, 0)
    outputs = call.forward()
    upstream = call.upstream(outputs, 0)
    rows = [torch.randn(row.batch, row.chunk, small, device=device).bfloat16() for _ in range(2)]
    made = {"d_pre": rows[0], "d_wx": rows[0], "operand": rows[1], "former": rows[1]}
    made["b_part"] = torch.randn(row.batch, small, device=device)
    passes = (
        lambda _: call.forward(),
        lambda _: launch.run_backward(kernel, call.constants, call.inputs | outputs, upstream),
        lambda _: reference.weight_gradients(call.inputs | outputs | made),
    )
    found = []
    for warps, chunks in SMALL:
        chunks = max(1, chunks * small // 512)
        whole = int(warps * chunks * 32 == small and division["WHOLE"])
        tried = {"WARPS": warps, "CHUNKS": chunks, "TILES": 1, "SHARED": 0, "TURNS": division["TURNS"], "WHOLE": whole}
        with launch.divided(tried):
            graphs = [captured(one, 1) for one in passes]
        forward, backward, weight = (t.median / row.chunk for t in interleaved(graphs, 1))
        found.append((forward, backward - weight))
    return min(f for f, _ in found), min(b for _, b in found), small


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", nargs="?", default="E42@1536x6")
    parser.add_argument(
        "--rival", default="rnn", help="a model of the same width and depth, whose step is divided by the floor"
    )
    parser.add_argument("--out", type=Path, help="file for the figures as JSON")
    chosen = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("There is no GPU here that torch can use; this measures nothing else.", file=sys.stderr)
        return 2
    device, row = torch.device("cuda"), parsed(chosen.model, 32, 512)
    limits = ceilings.measure(device)
    copy = limits["copy_gb_s"] * 1e6  # bytes a millisecond
    listed = products(row, device)
    floor = {"products": sum(count * product_ms(sizes) for sizes, count in listed.items())}
    with torch.device("meta"):
        parameters = parameter_count(LadderLM(registry().resolve(row.model), row.dim, row.depth))
    tokens = row.batch * row.chunk
    floor["norms"] = ((row.depth + 1) * NORM_BYTES - ENDS_LESS) * tokens * row.dim / copy
    floor["optimizer"] = parameters * OPTIMIZER_BYTES / copy
    forward, backward, small = smallest(row, device)
    floor["recurrence"] = row.depth * row.chunk * (forward + backward) / 1e3
    rest = 2 * 2 * row.batch * (inner_width(row) ** 2 - small**2) / limits["bf16_tflop_s"] / 1e9 * row.chunk * row.depth
    torch.cuda.empty_cache()
    ours = measure(row, {}, True)
    theirs = measure(row._replace(model=chosen.rival), {}, True)
    total = sum(floor.values())
    step, rival = ours["ms_per_step"], theirs["ms_per_step"]
    print(f"{row}; copy {limits['copy_gb_s']:.0f} GB/s, product {limits['bf16_tflop_s']:.0f} TFLOP/s")
    print(f"products: {', '.join(f'{count} x {sizes}' for sizes, count in sorted(listed.items()))}")
    print(
        f"recurrence at width {small}: {forward:.3f} and {backward:.3f} us a step; the rest of its products {rest:.2f} ms"
    )
    print(f"| ms | floor | {row.model} | {chosen.rival} |\n|---|---:|---:|---:|")
    names = {"products": "product", "norms": "norm", "optimizer": "optimizer", "recurrence": "recurrence"}
    for name, kind in names.items():
        print(f"| {name} | {floor[name]:.2f} | {ours['breakdown_ms'][kind]:.2f} | {theirs['breakdown_ms'][kind]:.2f} |")
    others = [sum(v for kind, v in m["breakdown_ms"].items() if kind not in names.values()) for m in (ours, theirs)]
    print(f"| other kernels | | {others[0]:.2f} | {others[1]:.2f} |")
    print(f"| step | {total:.2f}, with its product {total + rest:.2f} | {step:.2f} | {rival:.2f} |")
    print(f"| {chosen.rival} over it | {rival / total:.2f}, {rival / (total + rest):.2f} | {rival / step:.2f} | |")
    print(f"others of {row.model}: {'; '.join(ours['longest_other'])}")
    if chosen.out:
        figures = {
            "row": row._asdict(),
            "limits": limits,
            "floor": floor,
            "rest_of_product": rest,
            "small": [forward, backward, small],
        }
        chosen.out.write_text(json.dumps(figures | {"ours": ours, "rival": theirs}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
