"""A layer compiled to one graph, and captured in a CUDA graph, gives what it gives eagerly.

* `compile`: torch.compile with fullgraph, forward and backward, judged by the rule, since compiled code may fuse operations.
  On a CPU torch's tracing alone is tried (`aot_eager`); on CUDA all of it.
* `graph`: forward and backward captured once, replayed with new inputs, states and output gradients. CUDA only. Replays must
  equal eager runs bit for bit: a kernel that allocates, synchronises, or keeps a pointer from the capture fails.
"""

import copy
import dataclasses
import time

import torch
from torch import Tensor

from elmanctl.variant import Spec
from elmanctl.verify.layers import BadGradient, Setting, compare, evaluate, settings, truth_of
from elmanctl.verify.run import Check, judged, same_bits

WARMUPS, REPLAYS = 3, 2


def names(spec: Spec, device: str) -> list[str]:
    """Return the checks that apply: to layers with a kernel, since a library's own modules promise neither."""
    if not spec.variant.has_kernel:
        return []
    return ["compile", "graph"] if device == "cuda" else ["compile"]


def check_captured(spec: Spec, what: str, where: str, device: str, seed: int) -> Check:
    """Run `compile` or `graph` on every sub-layer, in fp32."""
    started, id, rows = time.monotonic(), f"layer {what}", []
    for s in settings(spec, seed):
        prefix = f"{s.label} " if len(spec.variant.sublayers) > 1 else ""
        if what == "graph":
            if text := _graph(s):
                return Check(id, "layer", False, message=prefix + text, seconds=time.monotonic() - started)
            continue
        torch.compiler.reset()  # the number of shapes that one process may compile for is limited
        try:
            got = evaluate(s, where, torch.float32, device, wrap=_compiled(device))
        except (BadGradient, RuntimeError) as error:  # what dynamo raises is a RuntimeError
            text = f"{prefix}{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            return Check(id, "layer", False, message=text, seconds=time.monotonic() - started)
        rows += [dataclasses.replace(r, tensor=prefix + r.tensor) for r in compare(s, got, *truth_of(s))]
    return judged(id, "layer", rows, started)


def _compiled(device: str):
    backend = "inductor" if device == "cuda" else "aot_eager"
    return lambda layer: torch.compile(layer, fullgraph=True, dynamic=False, backend=backend)


def _graph(s: Setting) -> str:
    """Capture a layer's forward and backward pass, replay it with new numbers, and say where a replay differs."""
    layer = copy.deepcopy(s.layer).float().cuda()
    x = s.x.float().cuda().requires_grad_()
    state = {k: t.float().cuda().requires_grad_() for k, t in s.state.items()}
    wanted = {"x": x, **{f"first {k}": t for k, t in state.items()}, **dict(layer.named_parameters())}
    upstream: dict[str, Tensor] = {}

    def passes() -> dict[str, Tensor]:
        y, last = layer(x, state)
        live = {n: t for n, t in {"y": y, **{f"state {k}": t for k, t in last.items()}}.items() if t.requires_grad}
        for name, t in live.items():
            if name not in upstream:
                upstream[name] = torch.randn_like(t)
        found = torch.autograd.grad(
            list(live.values()), list(wanted.values()), [upstream[n] for n in live], allow_unused=True
        )
        return live | {f"d_{n}": g for n, g in zip(wanted, found, strict=True) if g is not None}

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARMUPS):
            passes()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = passes()
    for replay in range(REPLAYS):
        with torch.no_grad():
            for t in (x, *state.values(), *upstream.values()):
                t.copy_(torch.randn_like(t))
        graph.replay()
        replayed = {n: t.detach().clone() for n, t in captured.items()}
        eager = passes()
        if bad := [n for n in eager if not same_bits(eager[n].detach(), replayed[n])]:
            return f"replay {replay + 1} of the CUDA graph, with new inputs, differs from eager in {', '.join(bad)}"
    return ""
