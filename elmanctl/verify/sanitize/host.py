"""The host's sanitizers: AddressSanitizer and UBSan in a child process, the race check in this one."""

from collections.abc import Sequence

from elmanctl import build, launch
from elmanctl.flavours import ASAN, RACE
from elmanctl.toolchain import preload
from elmanctl.verify.cases import Case
from elmanctl.verify.run import run, same_bits
from elmanctl.verify.sanitize import process, report

# Leaks are Python's and torch's own. The first finding ends the process.
OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=0:halt_on_error=1",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
}
Result = tuple[bool, str, bool]  # passed, text, ran


def address(plan, todo: Sequence[Case]) -> Result:
    """Run cases under AddressSanitizer and UBSan; the report of the first finding becomes the text."""
    for case in todo:  # here: a compiler must not run under the sanitizer
        build.build(
            plan.kernel, plan.kernel.complete(plan.constants, dict(case.sizes), case.dtype, None), case.dtype, ASAN
        )
    ids, request = [c.id for c in todo], plan.request
    asked = {"model": plan.spec.name, "device": "cpu", "target": ASAN, "cases": ids, "seed": request.seed}
    ended = process.start(asked, OPTIONS | {"LD_PRELOAD": ":".join(preload(ASAN))})
    if ended.done and ended.code == 0 and not ended.errors:
        return True, f"{len(ended.ended)} runs forward and backward, nothing found", True
    if ended.errors:
        case, text = ended.errors[0]
        return False, f"{text} (in {case})", True
    case = f" (in {ended.last})" if ended.last else ""
    if found := report.read(ended.stderr, ended.tensors):
        return False, found + case, True
    if ended.code is None:
        return False, f"no end within {process.SECONDS} s{case}", True
    return False, f"the process ended with status {ended.code}{case}: {ended.stderr.strip()[-600:]}", True


def race(plan, todo: Sequence[Case]) -> Result:
    """Run cases with the race check, all tensors watched, in forward and one random order; results must be bit-equal too."""
    from elmanctl.verify.sanitize.child import Bare, places, problem_of

    library, used = Bare(plan.kernel, plan.constants), set()

    def prepare(order: int, seed: int):
        def before(called, tensors):
            used.add(called)
            called.order(order, seed)
            called.watch(places(tensors))

        return before

    try:
        for case in todo:
            problem, results = problem_of(plan, case.id, plan.request.seed), []
            for order, label in ((0, "forward"), (2, f"random, seed {problem.seed}")):
                with launch.on_host(RACE, prepare(order, problem.seed)):
                    try:
                        results.append(run(library, problem))
                    except RuntimeError as error:
                        return False, f"{error} (in {case.id}, threads in order: {label})", True
            if differ := [name for name in results[0] if not same_bits(results[0][name], results[1][name])]:
                text = f"{', '.join(differ)} differ with threads in random order, seed {problem.seed} (in {case.id})"
                return False, text, True
    finally:
        for called in used:
            called.order(0)
            called.watch({})
    return True, f"{len(todo)} runs in two orders, a barrier between any two accesses", True
