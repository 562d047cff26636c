"""`verify --sanitize`: the kernel under tools that watch every memory access, one check a tool and dtype.

* On the host: `address` (AddressSanitizer and UBSan, in a process of its own) and `race` (our check that every two accesses to
  one place, one of them a write, have a barrier between them). On CUDA: the four tools of compute-sanitizer.
* A tool that is absent or refuses the device gives a check that says `not run`, and why.
"""

import time

from elmanctl import stepwise
from elmanctl.toolchain import preload
from elmanctl.verify import cases
from elmanctl.verify.cases import Case
from elmanctl.verify.run import Check

HOST_TOOLS = ("address", "race")
DEVICE_TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
DTYPES = ("float32", "bfloat16")


def tools(device: str) -> tuple[str, ...]:
    """Return the tools of a device."""
    return HOST_TOOLS if device == "cpu" else DEVICE_TOOLS


def runs(plan, dtype: str) -> list[Case]:
    """Return the small cases that a tool sees: one step, past one chunk, past two with an extreme draw, and a long one where it takes another build."""
    k, other = cases.chunk(plan.constants), cases.other_sizes(plan.spec, plan.kernel)
    chosen = ((1, plan.draws[0]), (k + 1, plan.draws[0]), (2 * k + 3, plan.draws[-1]), (cases.LONG, plan.draws[0]))
    *short, long = [cases.make(plan.kernel, other, dtype, T, draw) for T, draw in chosen]
    # Of the host, whose divisions follow the largest Hopper's.
    *builds, last = [cases.build(plan.kernel, plan.constants, case, None) for case in (*short, long)]
    return short if last in builds else [*short, long]


def listed(plan) -> list[tuple[str, Case | None]]:
    """Return (tool, case that stands for its runs) of every check; a lone `("", None)` where no kernel of ours runs.

    Raises:
        UserError: where a host build cannot run for want of the compiler's sanitizer libraries.
    """
    if not plan.kernel or stepwise.asked(plan.constants):
        return [("", None)]
    request = plan.request
    wanted = [request.dtype] if request.dtype else [d for d in plan.dtypes if d in DTYPES]
    return [
        (tool, runs(plan, dtype)[1])
        for tool in tools(request.device)
        for dtype in (wanted[:1] if request.quick else wanted)
    ]


def require(device: str) -> None:
    """Raise UserError where the host's sanitizers are asked for and the compiler lacks their libraries."""
    if device == "cpu":
        from elmanctl.flavours import ASAN

        preload(ASAN)


def check(plan, id: str, tool: str, case: Case | None) -> Check:
    """Run one tool over its small cases."""
    from elmanctl.verify.sanitize import device, host

    started = time.monotonic()
    if case is None:
        text = f"not run: {plan.spec.name if plan.kernel else plan.spec.variant.name} has no kernel of its own"
        return Check(id, "sanitize", True, message=text, not_run=True)
    todo = runs(plan, case.dtype)
    if tool == "race":
        ok, text, ran = host.race(plan, todo)
    elif tool == "address":
        ok, text, ran = host.address(plan, todo)
    else:
        ok, text, ran = device.check(plan, tool, todo)
    return Check(id, "sanitize", ok, message=text, seconds=time.monotonic() - started, not_run=not ran)
