"""Time the residual add and RMSNorm of elmanctl/norms.py on a GPU, beside torch's compiler and mamba-ssm where they are there.

    python bench/norms.py [DIM ...] [--rows 16384]

Microseconds of one norm, forward and backward, CUDA-graph replay on rotated inputs, contenders in turn; GB/s counts the bytes that
norm_kernels.py must move (12 and 14 an element), for every contender, and the device's copy rate is measured in the same run.
"""

import argparse
import sys

import torch

from elmanctl.kernelbench import ceilings
from elmanctl.kernelbench.clock import captured, interleaved
from elmanctl.norms import EPS, add_norm, fused

WIDTHS = (768, 1536, 1920, 2432, 3200, 4736)
SETS = 4
FORWARD, BACKWARD = 12, 14  # bytes an element


def contenders() -> dict:
    """Return (x, stream, weight) -> (u, new stream) by name."""
    found = {"torch.compile": torch.compile(lambda x, r, w: add_norm(x, r, w, torch.bfloat16), dynamic=False)}
    if fused():
        from elmanctl.norm_kernels import AddNormFunction

        found["triton"] = lambda x, r, w: AddNormFunction.apply(x, r, w, EPS, torch.bfloat16)
    try:
        from mamba_ssm.ops.triton.layer_norm import rms_norm_fn
    except Exception as error:  # a broken installation fails in its own ways
        print(f"mamba_ssm: {error}".splitlines()[0], file=sys.stderr)
    else:
        found["mamba_ssm"] = lambda x, r, w: rms_norm_fn(
            x, w, None, residual=r, eps=EPS, prenorm=True, residual_in_fp32=True
        )
    return found


def measure(D: int, rows: int) -> dict[str, tuple[float, float]]:
    """Return microseconds forward and backward by contender."""

    def draw(dtype):
        return [torch.randn(rows, D, device="cuda", dtype=dtype) for _ in range(SETS)]

    xs, rs = ([t.requires_grad_() for t in draw(kind)] for kind in (torch.bfloat16, torch.float32))
    du, ds, weight = draw(torch.bfloat16), draw(torch.float32), torch.ones(D, device="cuda", requires_grad=True)

    def both(function):
        def one(number):
            outputs = function(xs[number], rs[number], weight)
            return torch.autograd.grad(outputs, (xs[number], rs[number], weight), (du[number], ds[number]))

        return one

    known = contenders()
    forward = [
        captured(lambda n, f=f: f(xs[n].detach(), rs[n].detach(), weight.detach()), SETS) for f in known.values()
    ]
    times = [t.median for t in interleaved(forward, SETS)]
    del forward
    whole = [t.median for t in interleaved([captured(both(f), SETS) for f in known.values()], SETS)]
    return {name: (a, b - a) for name, a, b in zip(known, times, whole, strict=True)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("dims", type=int, nargs="*", default=WIDTHS)
    parser.add_argument("--rows", type=int, default=16384, help="batch times chunk")
    chosen = parser.parse_args()
    if not torch.cuda.is_available():
        print("There is no GPU here that torch can use; this measures nothing else.", file=sys.stderr)
        return 2
    copy = ceilings.measure(torch.device("cuda"))["copy_gb_s"]
    print(f"| width | contender | forward, us | GB/s | backward, us | GB/s | of the copy rate, {copy:.0f} GB/s |")
    print("|---:|---|---:|---:|---:|---:|---:|")
    for D in chosen.dims:
        torch.compiler.reset()
        for name, (forward, backward) in measure(D, chosen.rows).items():
            elements = D * chosen.rows / 1e3
            rates = elements * FORWARD / forward, elements * BACKWARD / backward
            share = elements * (FORWARD + BACKWARD) / (forward + backward) / copy
            print(
                f"| {D} | {name} | {forward:.1f} | {rates[0]:.0f} | {backward:.1f} | {rates[1]:.0f} | {share:.0%} |",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
