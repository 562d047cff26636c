"""Time one kernel under several divisions of its work over the device, in turn on one GPU: what its tiling's constants are worth.

    python bench/divisions.py NAME [--shape B=32,T=512,dim=1536] --try WARPS=1,FLIGHT=4 --try WARPS=8 ...

A row says microseconds of a forward pass and of forward and backward with all gradients, and of the copy rate measured in the same run the
share that the kernel's declared tensors make. The first row is the division that the tool chooses. Results are not checked here:
`elmanctl verify` does, for the division that is shipped.
"""

import argparse
import contextlib
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from elmanctl.build import build
from elmanctl.errors import UserError
from elmanctl.kernelbench import ceilings
from elmanctl.kernelbench.clock import captured, interleaved, rotations
from elmanctl.kernelbench.inputs import Call, capture, least_bytes
from elmanctl.kernelbench.shapes import parse_shape
from elmanctl.launch import build_constants, divided, target_of
from elmanctl.plugins.registry import registry


def parsed(text: str) -> dict[str, int]:
    """Read `WARPS=8,CHUNKS=6`."""
    return {name: int(value) for name, _, value in (part.partition("=") for part in text.split(","))}


def build_all(call: Call, divisions: list[dict[str, int]]) -> None:
    """Compile what is missing, side by side; what does not compile says so where it is used."""
    like = next(iter(call.inputs.values()))
    wanted = []
    for division in divisions:
        with divided(division):
            wanted.append(build_constants(call.kernel, call.constants, call.sizes, "bfloat16", like))

    def one(constants: dict[str, int]) -> None:
        with contextlib.suppress(UserError):
            build(call.kernel, constants, "bfloat16", target_of(like))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, wanted))


def timed(calls: list[Call], upstream: dict, divisions: list[dict[str, int]]) -> list[tuple[float, float] | str]:
    """Return microseconds forward and both, or why there are none, for each division; all are timed in turn."""
    count, graphs, found = len(calls), {}, {}
    for number, division in enumerate(divisions):
        try:
            with divided(division):
                forward = captured(lambda n: calls[n].forward(), count)
                graphs[number] = forward, captured(lambda n: calls[n].both(upstream), count)
        except (RuntimeError, UserError) as error:  # a division that does not compile, or that the launch refuses
            found[number] = f"{error}".splitlines()[0][:150]
    for part in (0, 1):
        times = interleaved([pair[part] for pair in graphs.values()], count)
        for number, time in zip(graphs, times, strict=True):
            found[number] = (*found.get(number, ()), time.median)
    return [found[number] for number in range(len(divisions))]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("name")
    parser.add_argument("--shape", help="B=32,T=512,dim=1536")
    parser.add_argument("--try", dest="tried", action="append", default=[], metavar="NAME=VALUE,...")
    parser.add_argument("--out", type=Path, help="file for the rows as JSON")
    chosen = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("There is no GPU here that torch can use; this measures nothing else.", file=sys.stderr)
        return 2
    device, shape, spec = torch.device("cuda"), parse_shape(chosen.shape), registry().resolve(chosen.name)
    first = capture(spec, shape.dim, shape.B, shape.T, device, 0)
    count = rotations(least_bytes(first, both=False), device)
    calls = [first, *(capture(spec, shape.dim, shape.B, shape.T, device, n) for n in range(1, count))]
    divisions = [{}, *map(parsed, chosen.tried)]
    build_all(first, divisions)
    copy = ceilings.measure(device)["copy_gb_s"]
    sizes = [least_bytes(first, both=False), least_bytes(first, both=True)]
    print(f"{spec.name}, {shape.text()}, bf16; copy {copy:.0f} GB/s")
    rows = []
    for division, times in zip(divisions, timed(calls, first.upstream(first.forward(), 0), divisions), strict=True):
        rows.append({"division": division, "us": times})
        label = ",".join(f"{name}={value}" for name, value in division.items()) or "as chosen"
        if isinstance(times, str):
            print(f"  {label:34} {times}")
            continue
        shares = [of / us / 1e3 / copy for of, us in zip(sizes, times, strict=True)]
        print(
            f"  {label:34} forward {times[0]:7.1f} us ({shares[0]:.0%}), both {times[1]:7.1f} us ({shares[1]:.0%})",
            flush=True,
        )
    if chosen.out:
        chosen.out.write_text(
            json.dumps({"model": spec.name, "shape": shape.text(), "copy_gb_s": copy, "rows": rows}) + "\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
