"""Plants a mistake in a copy of a shipped kernel's source, compiles it for the host, and runs cases of it in a process of its own.

LOW is an expression of C++ that rounds another to bf16.
"""

import functools

from elmanctl.plugins.registry import registry
from elmanctl.toolchain import csrc_folder
from elmanctl.verify.plan import Plan, Request
from elmanctl.verify.prove import kernel_mutants, trial
from elmanctl.verify.prove.edits import Edit

STEP = ""  # the variant's own file
LOW = "([](auto x) {{ elman::dtype<elman::bfloat16>::type low; elman::store(&low, x); return decltype(x)(elman::load(&low)); }}({}))"
T9 = "T9 typical"


@functools.cache
def plan_of(model):
    return Plan(Request(registry().resolve(model), "cpu"))


@functools.cache
def bench_of(model, *cases):
    """Return what a patched kernel runs on: cases with their truths."""
    plan = plan_of(model)
    tasks = [plan.named(f"float32 {case}") for case in cases]
    built = plan.kernel.complete(plan.constants, dict(tasks[0].case.sizes), "float32", None)
    truths = {t.id: plan.truth(t) for t in tasks}
    return trial.Bench(plan.kernel, plan.constants, (built,), "float32", truths, tuple(truths), (), tasks[0].id)


def planted(model, file, old, new):
    """Return the edit, and fail where its passage is not found exactly once."""
    folder = plan_of(model).spec.variant.folder.resolve()
    path = csrc_folder().resolve() / "elman" / "families" / file if file else next(folder.glob("*.cu.cc"))
    text = path.read_text()
    hits = text.count(old)
    assert hits == 1, f"{old!r} occurs {hits} times in {path.name}: write this patch anew for the kernel as it is"
    line = text[: text.index(old)].count("\n")
    # An edit replaces a line: one that goes over several takes the rest of them along.
    lines, after = text.splitlines(), text.replace(old, new).splitlines()
    more = len(after) - len(lines)
    return Edit(path, line + 1, "historic", lines[line], "\n".join(after[line : line + 1 + more]))


def tried(model, patch, folder, *cases):
    """Return what a patched kernel's cases found, and their ids. `patch`: file, passage, what it becomes."""
    file, old, new = patch[:3]
    bench = bench_of(model, *cases)
    made = kernel_mutants.libraries_of(bench, planted(model, file, old, new), folder, ("-O0",))
    assert made is not None, "the patch does not compile: write it anew for the kernel as it is"
    return trial.trial(bench, made[0], 60), [f"{id}" for id in bench.quick]


def refused(model, patch, folder):
    """Assert that a patch is rejected with the tensor named that is wrong, and that what it does not reach passes.

    Args:
        patch: file, passage, what it becomes, {model: (tensor that must be named, tensors that must pass)}, case.
    """
    tensor, right = patch[3][model]
    report, (case,) = tried(model, patch, folder, patch[4])
    wrong = set(report.tensors.get(case, ()))
    assert tensor in wrong and not wrong & set(right.split()), (report.rejected, wrong)
