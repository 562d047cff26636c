"""Recurrences of libraries at the sizes of a kernel, for comparison; binding.py names those that do comparable work.

Each function takes the kernel's sizes (B, T, D or H, N, M) and a number of input sets, and returns `pass(i, both)`, which runs
forward, or forward and backward with all gradients, on set i. It raises Absent where its package cannot be used here.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from elmanctl.cudnn import cell_weights

Pass = Callable[[int, bool], object]


class Absent(Exception):
    """Why a rival cannot run here."""


def noise(*shape: int) -> Tensor:
    """Return bf16 noise on the GPU that takes a gradient."""
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16).requires_grad_()


def differentiate(run: Callable[..., Tensor], inputs: list[list[Tensor]]) -> Pass:
    """Make a pass of a function that autograd knows."""
    upstream = [torch.randn_like(run(*tensors)) for tensors in inputs]

    def one(number: int, both: bool):
        y = run(*inputs[number])
        return torch.autograd.grad(y, inputs[number], upstream[number]) if both else y

    return one


def cudnn_rnn(sizes: dict[str, int], sets: int) -> Pass:
    """cuDNN's tanh recurrence, its input projection (one product over all steps) included; time first and weights in one buffer, as suits it."""
    B, T, D = sizes["B"], sizes["T"], sizes["D"]
    xs = [noise(T, B, D) for _ in range(sets)]
    upstream, h0 = noise(T, B, D).detach(), noise(1, B, D)
    weights = [w.detach().requires_grad_() for w in cell_weights(torch.nn.RNN(D, D, device="cuda"), xs[0])]

    def one(number: int, both: bool):
        y, _ = torch.rnn_tanh(xs[number], h0, weights, True, 1, 0.0, True, False, False)
        return torch.autograd.grad(y, [xs[number], h0, *weights], upstream) if both else y

    return one


def cublas_loop(sizes: dict[str, int], sets: int) -> Pass:
    """One cuBLAS product a step, h[t] = wx[t] + W h[t-1] and its gradients, and nothing else; time first, as suits the library."""
    B, T, D = sizes["B"], sizes["T"], sizes["D"]
    wx = [noise(T, B, D).detach() for _ in range(sets)]
    dy = [noise(T, B, D).detach() for _ in range(sets)]
    W = torch.randn(D, D, device="cuda", dtype=torch.bfloat16) / D**0.5
    h, d = torch.empty_like(wx[0]), torch.empty_like(wx[0])

    def one(number: int, both: bool):
        h[0].copy_(wx[number][0])
        for t in range(1, T):
            torch.addmm(wx[number][t], h[t - 1], W.t(), out=h[t])
        if both:
            d[T - 1].copy_(dy[number][T - 1])
            for t in range(T - 2, -1, -1):
                torch.addmm(dy[number][t], d[t + 1], W, out=d[t])
            return d[1:].flatten(0, 1).t() @ h[:-1].flatten(0, 1)

    return one


def flashrnn(sizes: dict[str, int], sets: int) -> Pass:
    """FlashRNN's Elman network with one head, alternating kernel (`cuda`), which waits for streams of its own at a pass's end."""
    B, T, D = sizes["B"], sizes["T"], sizes["D"]
    if B * T * D >= 2**31:  # past its 32-bit offsets (flashrnn_backward.cu) it writes where it should not
        raise Absent(f"flashrnn: {B} x {T} x {D} elements are 2^31 or more, which it cannot address")
    try:
        from flashrnn import flashrnn as run
    except Exception as error:  # it compiles itself when imported, and fails in its compiler's ways
        raise Absent(f"flashrnn: {type(error).__name__}: {error}".splitlines()[0]) from error
    R, b, start = noise(1, 1, D, D), noise(1, 1, D), noise(1, B, 1, 1, D)

    def forward(wx, R, b, start):
        return run(wx, R, b, states=start, function="elman", backend="cuda")[0]

    return differentiate(forward, [[noise(B, T, 1, 1, D), R, b, start] for _ in range(sets)])


def matrix_sizes(sizes: dict[str, int]) -> tuple[int, ...]:
    """Return B, T, H, N and M of a matrix state; a kernel of square ones has no M."""
    return (*(sizes[n] for n in ("B", "T", "H", "N")), sizes.get("M", sizes["N"]))


def fla_gated_delta(sizes: dict[str, int], sets: int) -> Pass:
    """flash-linear-attention's chunked gated delta rule: a linear state, parallel over time."""
    try:
        from fla.ops.gated_delta_rule import chunk_gated_delta_rule
    except ImportError as error:
        raise Absent(f"flash-linear-attention is not installed ({error})") from error
    B, T, H, N, M = matrix_sizes(sizes)

    def forward(q, k, v, g, beta):
        return chunk_gated_delta_rule(
            q, k, v, -torch.nn.functional.softplus(g.float()), beta.sigmoid(), use_qk_l2norm_in_kernel=True
        )[0]

    inputs = [
        [noise(B, T, H, N), noise(B, T, H, N), noise(B, T, H, M), noise(B, T, H), noise(B, T, H)] for _ in range(sets)
    ]
    return differentiate(forward, inputs)


def mamba_scan(sizes: dict[str, int], sets: int) -> Pass:
    """mamba-ssm's chunked scan (SSD): a linear state with a scalar decay, parallel over time."""
    try:
        from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined
    except ImportError as error:
        raise Absent(f"mamba-ssm is not installed ({error})") from error
    B, T, H, N, M = matrix_sizes(sizes)
    A = -torch.rand(H, device="cuda")

    def forward(x, dt, b, c):
        return mamba_chunk_scan_combined(x, dt, A, b, c, chunk_size=256, dt_softplus=True)

    inputs = [[noise(B, T, H, M), noise(B, T, H), noise(B, T, H, N), noise(B, T, H, N)] for _ in range(sets)]
    return differentiate(forward, inputs)


# Contenders that wait for the GPU inside a pass, which a graph's capture forbids: launched, and their host time counts.
LAUNCHED = ("flashrnn",)
RIVALS: dict[str, Callable[[dict[str, int], int], Pass]] = {
    f.__name__: f for f in (cudnn_rnn, cublas_loop, flashrnn, fla_gated_delta, mamba_scan)
}
