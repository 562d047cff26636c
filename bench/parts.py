"""Time what surrounds a recurrence in some layers, the causal convolution and the norm per head, on a GPU.

    python bench/parts.py conv|norm [--sizes 32,512,1536] [--silu] [--try BLOCK=64,STEPS=4 ...]

Microseconds forward and backward in bf16, CUDA-graph replay on rotated inputs, contenders in turn; the share is of the copy rate measured in the same
run, and counts the bytes that the kernels must move (4 and 6 an element), for every contender. Sizes are B,T,C of a convolution and B,T,H,M of a
norm. A try changes constants of the kernels: BLOCK, STEPS, WIDE and WARPS of a convolution, FORWARD, BACKWARD, WARPS and PROGRAMS of a norm.
"""

import argparse
import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F

from elmanctl.conv import convolved
from elmanctl.head_norm import normed
from elmanctl.kernelbench import ceilings
from elmanctl.kernelbench.clock import captured, interleaved, rotations

BYTES = (4, 6)  # of an element, forward and backward
SIZES = {"conv": "32,512,1536", "norm": "32,512,16,32"}


def divided(module, given: dict[str, int], function: Callable) -> Callable:
    """Return a function that runs with some constants of its module changed."""

    def run(*arguments):
        before = dict(vars(module))
        for name, value in given.items():
            if name in ("BLOCK", "STEPS"):
                module.FORWARD, module.BACKWARD = ({**d, name: value} for d in (module.FORWARD, module.BACKWARD))
            else:
                setattr(module, name, value)
        try:
            return function(*arguments)
        finally:
            vars(module).update(before)

    return run


def backward_too(module, given: dict[str, int], function: Callable) -> Callable:
    """Return a pass in both directions under the same constants."""
    return divided(module, given, lambda leaves, g: torch.autograd.grad(function(*leaves), leaves, g))


def conv_before(u, weight, tail, silu):
    """Convolve as torch offers it: a copy with the tail, transposed twice."""
    padded = torch.cat([tail.to(u.dtype), u], 1)
    s = F.conv1d(padded.transpose(1, 2), weight[:, None].to(u.dtype), groups=weight.shape[0])
    s = s.transpose(1, 2).contiguous()
    return F.silu(s) if silu else s


def contenders(what: str, sizes: list[int], silu: bool) -> tuple[object, dict[str, Callable]]:
    """Return the kernels' module and, by name, functions of an input and a weight; the kernels come last."""
    dtype, options = torch.bfloat16, {"dynamic": False}
    if what == "norm":
        from elmanctl import head_norm_kernels as module

        def plain(y, w):
            return normed(y, w, None, "silu", dtype)

        def ours(y, w):
            return module.HeadNormFunction.apply(y, w, None, "silu", dtype)

        return module, {"torch": plain, "torch.compile": torch.compile(plain, **options), "triton": ours}
    from elmanctl import conv_kernels as module

    tail = torch.zeros(sizes[0], 3, sizes[2], device="cuda")
    found = {
        "torch": lambda u, w: conv_before(u, w, tail, silu),
        "torch.compile": torch.compile(lambda u, w: convolved(u, tail, w, None, silu)[0], **options),
    }
    try:
        from causal_conv1d import causal_conv1d_fn
    except Exception as error:  # a broken installation fails in its own ways
        print(f"causal_conv1d: {error}".splitlines()[0], file=sys.stderr)
    else:
        found["causal_conv1d"] = lambda u, w: causal_conv1d_fn(
            u.transpose(1, 2), w.to(dtype), activation="silu" if silu else None
        ).transpose(1, 2)
    return module, found | {"triton": lambda u, w: module.CausalConvFunction.apply(u, tail, w, None, silu)[0]}


def measure(what: str, sizes: list[int], silu: bool, tries: list[str]) -> dict[str, tuple[float, float]]:
    """Return microseconds forward and backward by contender."""
    module, known = contenders(what, sizes, silu)
    runs = [(name, {}, function) for name, function in known.items()]
    for text in tries:
        given = {name: int(value) for name, _, value in (part.partition("=") for part in text.split(","))}
        runs.append((text, given, known["triton"]))
    count = torch.Size(sizes).numel()
    sets = rotations(count * BYTES[0], torch.device("cuda"))
    xs, gs = ([torch.randn(*sizes, device="cuda", dtype=torch.bfloat16) for _ in range(sets)] for _ in "xg")
    weight = torch.randn(*([sizes[-1], 4] if what == "conv" else sizes[-1:]), device="cuda").requires_grad_()
    for x in xs:
        x.requires_grad_()
    forward = [divided(module, given, f) for _, given, f in runs]
    both = [backward_too(module, given, f) for _, given, f in runs]
    graphs = [captured(lambda n, f=f: f(xs[n].detach(), weight.detach()), sets) for f in forward]
    times = [t.median for t in interleaved(graphs, sets)]
    del graphs
    graphs = [captured(lambda n, f=f: f((xs[n], weight), gs[n]), sets) for f in both]
    whole = [t.median for t in interleaved(graphs, sets)]
    return {name: (a, b - a) for (name, _, _), a, b in zip(runs, times, whole, strict=True)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=list(SIZES))
    parser.add_argument("--sizes", help=f"default {SIZES}")
    parser.add_argument("--silu", action="store_true", help="silu after the convolution")
    parser.add_argument("--try", dest="tries", action="append", default=[], metavar="NAME=VALUE,...")
    chosen = parser.parse_args()
    if not torch.cuda.is_available():
        print("There is no GPU here that torch can use; this measures nothing else.", file=sys.stderr)
        return 2
    sizes = [int(n) for n in (chosen.sizes or SIZES[chosen.what]).split(",")]
    copy = ceilings.measure(torch.device("cuda"))["copy_gb_s"]
    print(f"| contender | forward, us | backward, us | of the copy rate, {copy:.0f} GB/s |\n|---|---:|---:|---:|")
    moved = torch.Size(sizes).numel() * sum(BYTES) / 1e3
    for name, (forward, backward) in measure(chosen.what, sizes, chosen.silu, chosen.tries).items():
        print(f"| {name} | {forward:.1f} | {backward:.1f} | {moved / (forward + backward) / copy:.0%} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
