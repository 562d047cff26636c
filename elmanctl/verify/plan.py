"""What verify is asked for, and the checks that this comes to."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from elmanctl.errors import UserError, did_you_mean
from elmanctl.options import show
from elmanctl.tiles import DoesNotFit
from elmanctl.toolchain import HOST
from elmanctl.variant import Spec
from elmanctl.verify import captured, cases, drawn, layers, liveness, parity, properties, remembered, sanitize, training
from elmanctl.verify.cases import Case
from elmanctl.verify.record import Receipt
from elmanctl.verify.run import Check, Compiled, run_case
from elmanctl.verify.truth import Problem, Truth, draw

QUICK_DTYPES = ("float32", "bfloat16")
LAYER = dict.fromkeys(training.CHECKS, training.check_training)
LAYER |= dict.fromkeys(("compile", "graph"), captured.check_captured)
LAYER[parity.NAME] = parity.check_parity


@dataclass(frozen=True)
class Task:
    """One check to run: `id` as `--case` takes it, and what it consists of."""

    id: str
    kind: str  # case, property, layer, option, sanitize
    case: Case | None = None
    name: str = ""
    value: object = None


@dataclass(frozen=True)
class Request:
    """What verify is asked for.

    `device` is `cpu` or `cuda`; `case` and `dtype` narrow it to a part; `sanitize` and `train` add checks. Of `quick` and
    `thorough` one or none is set. `kept` is the receipt whose checks of the kernel are kept: those of the layer alone run (kept.py), or
    the cases `sized` of builds that it has none of (sized.py); without it those of an earlier receipt, which run again with all others.
    """

    spec: Spec
    device: str
    seed: int = 0
    quick: bool = False
    case: str | None = None
    dtype: str | None = None
    sanitize: bool = False
    thorough: bool = False
    train: bool = False
    kept: Receipt | None = None
    sized: tuple[Case, ...] = ()

    @property
    def complete(self) -> bool:
        return self.case is None and self.dtype is None

    @property
    def target(self) -> str:
        if self.device == "cpu":
            return HOST
        from elmanctl.launch import target_of

        return target_of(torch.empty(0, device="cuda"))


class Plan:
    """The parts of a configuration, and its checks. Built once, before workers are forked."""

    def __init__(self, request: Request):
        spec = self.spec = request.spec
        self.request = request
        self.kernel = spec.variant.kernel()
        if missing := spec.variant.missing():
            raise UserError(
                f"{spec.name} needs {', '.join(missing)}, which cannot be imported. Install: {spec.variant.install}"
            )
        if spec.variant.requires and request.device == "cpu":
            raise UserError(
                f"{spec.name} runs {spec.variant.library} on a GPU only: there is nothing to check on a CPU. Run it with --device cuda."
            )
        self.dtypes: tuple[str, ...] = ("float32",)
        if self.kernel:
            self.constants = spec.variant.module("binding").constants(spec.config)
            self.reference = spec.variant.module("reference")
            self.draws = self.reference.DRAWS
            self.dtypes = cases.allowed_dtypes(self.kernel, HOST if request.device == "cpu" else "device")
        if request.dtype and request.dtype not in self.dtypes:
            raise UserError(
                f"--dtype {request.dtype}: {spec.name} is checked in {', '.join(self.dtypes)} on {request.device}."
            )
        self.where = ({"cpu": "host", "cuda": "cuda"}[request.device]) if self.kernel else "library"

    def tasks(self) -> list[Task]:
        """Return the checks asked for. Raises UserError for a `--case` that names none."""
        request = self.request
        if request.case is not None:
            return [self.named(request.case)]
        sized = [Task(case.id, "case", case) for case in request.sized]
        if sized and request.kept:
            return sized
        found = [] if request.kept else self.kernel_tasks(request.quick)
        known = {task.id for task in found}
        found += [task for task in sized if task.id not in known] + self.layer_tasks(request.quick)
        if request.train:
            found.append(self.train_task())
        if request.sanitize:
            sanitize.require(request.device)
            found += self.sanitize_tasks()
        if request.dtype:
            dtype = request.dtype
            found = [t for t in found if (t.case.dtype if t.case else "float32") == dtype]
        return found

    def kernel_tasks(self, quick: bool = False) -> list[Task]:
        if not self.kernel:
            return []
        dtypes = [d for d in self.dtypes if not quick or d in QUICK_DTYPES]
        T, other = cases.chunk(self.constants) + 1, cases.other_sizes(self.spec, self.kernel)
        found = [Task(c.id, "case", c) for c in self.cases(dtypes, quick)]
        target = HOST if self.request.device == "cpu" else "device"
        for dtype in dtypes[:1] if quick else dtypes:
            case = cases.make(self.kernel, other, dtype, T, self.draws[0])
            found += [Task(f"{dtype} {n}", "property", case, n) for n in properties.names(self.kernel, dtype, target)]
        return found

    def cases(self, dtypes, quick: bool = False, thorough: bool | None = None) -> list[Case]:
        """Return the cases of some dtypes: the quick ones, the default, or (by default as the request says) the thorough ones."""
        parts = (self.spec, self.kernel, self.constants, dtypes, self.draws)
        if quick:
            return cases.default(*parts, quick=True)
        thorough = self.request.thorough if thorough is None else thorough
        listed = (cases.thorough if thorough else cases.default)(*parts)
        return list(dict.fromkeys(listed + self.structured(dtypes) + self.drawn(dtypes, thorough)))

    def structured(self, dtypes) -> list[Case]:
        """Return the cases of inputs of zeros and of large numbers."""
        other = cases.other_sizes(self.spec, self.kernel)
        return drawn.structured(self.kernel, other, dtypes, cases.chunk(self.constants) + 1)

    def drawn(self, dtypes=None, thorough: bool | None = None) -> list[Case]:
        """Return the cases whose shapes the seed draws."""
        if not self.kernel:
            return []
        thorough = self.request.thorough if thorough is None else thorough
        parts = (self.spec, self.kernel, self.constants, dtypes or self.dtypes, self.draws)
        return drawn.shapes(*parts, self.request.seed, drawn.MANY if thorough else drawn.COUNT)

    def smallest(self, dtype: str, passes: Callable[[Case], bool]) -> Case | None:
        """Return what Hypothesis shrinks the first failing of the drawn cases of a dtype to; None where all pass."""
        parts = (self.spec, self.kernel, self.constants, dtype, self.draws, self.request.seed)
        return drawn.smallest(*parts, drawn.MANY if self.request.thorough else drawn.COUNT, passes)

    def layer_tasks(self, quick: bool = False) -> list[Task]:
        if self.spec.variant.requires:
            return [Task(f"layer {n}", "layer", name=n) for n in ("gradients", "causality", "rows", "moves")]
        names = layers.PROPERTIES[:1]
        if not quick:
            names = (*layers.PROPERTIES, *training.CHECKS, *captured.names(self.spec, self.request.device))
        found = [Task(f"layer {n}", "layer", name=n) for n in names]
        if not quick:
            found += [Task(f"option {n}={show(v)}", "option", name=n, value=v) for n, v in liveness.flips(self.spec)]
        return found

    def train_task(self) -> Task:
        if self.spec.variant.requires:
            raise UserError(
                f"--train: {self.spec.name} has no reference of ours, which training could be held against."
            )
        return Task(f"layer {parity.NAME}", "layer", name=parity.NAME)

    def sanitize_tasks(self) -> list[Task]:
        listed = sanitize.listed(self)
        ids = [f"sanitize {tool} {case.dtype}" if case else "sanitize" for tool, case in listed]
        return [Task(i, "sanitize", case, tool) for i, (tool, case) in zip(ids, listed, strict=True)]

    def named(self, text: str) -> Task:
        """Return the check that `--case` names."""
        trained = [] if self.spec.variant.requires else [self.train_task()]
        known = {t.id: t for t in self.kernel_tasks() + self.layer_tasks() + trained + self.sanitize_tasks()}
        if text in known:
            return known[text]
        if not self.kernel or text.split()[:1] in (["layer"], ["option"], ["sanitize"]):
            raise UserError(
                f"--case {text!r} is no check of {self.spec.name}.{did_you_mean(text, known)} "
                f"Others: {', '.join(i for i in known if not known[i].case or known[i].kind != 'case')}."
            )
        case = cases.parse(text, self.spec, self.kernel, self.dtypes, (*self.draws, *drawn.STRUCTURED))
        return Task(case.id, "case", case)

    def run(self, task: Task, truth: Truth | None = None) -> Check:
        """Run one check. A mistake in the variant's reference is a failed check; one in the request is a UserError."""
        started, device, seed = time.monotonic(), self.request.device, self.request.seed
        try:
            if task.kind == "layer":
                check = LAYER.get(task.name, layers.check_layer)
                return check(self.spec, task.name, self.where, device, seed)
            if task.kind == "option":
                return liveness.check_option(self.spec, task.name, task.value, self.where, device, seed)
            if task.kind == "sanitize":
                return sanitize.check(self, task.id, task.name, task.case)
            library = Compiled(self.kernel, self.constants, device)
            problem = draw(self.kernel, self.reference, self.constants, task.case, seed)
            if task.kind == "property":
                return properties.check_property(task.name, library, problem, self._known)
            truth = truth or self._known(problem)
            return run_case(library, self.kernel, self.reference, self.constants, task.case, seed, truth)
        except DoesNotFit as error:
            # A case of an earlier receipt may be of a larger GPU; what is asked for by name has to fit.
            earlier = task.case in self.request.sized and not self.request.kept
            text = f"not run: {error}" if earlier else str(error)
            return Check(task.id, task.kind, earlier, message=text, not_run=earlier)
        except (ValueError, KeyError, RuntimeError) as error:
            text = f"{type(error).__name__}: {error}"
            return Check(task.id, task.kind, False, message=text, seconds=time.monotonic() - started)

    def _known(self, problem: Problem) -> Truth:
        return remembered.truth(self.spec, problem)

    def device_facts(self) -> dict[str, str]:
        """Return the target that was built for, and the device's name; on CUDA this starts the device."""
        name = torch.cuda.get_device_name() if self.request.device == "cuda" else "host"
        return {"target": self.request.target, "name": name}

    def truth(self, task: Task) -> Truth | None:
        """Return the truth of a case, for a kernel that runs in another process."""
        if task.kind != "case":
            return None
        return self._known(draw(self.kernel, self.reference, self.constants, task.case, self.request.seed))
