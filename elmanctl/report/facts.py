"""What holds for a report as a whole, and what is unequal among its rows."""

from collections import Counter
from typing import Any

from elmanctl import plan
from elmanctl.records import Budget, Training
from elmanctl.sizes import short_count, short_share

Groups = dict[str, list[plan.Outcome]]  # a row's name -> its trials, one a seed


def fields(outcome: plan.Outcome) -> dict[str, Any]:
    """Return what must be equal for rows to be comparable, by the name that the report uses."""
    trial, result = outcome.trial, outcome.result
    found: dict[str, Any] = {} if trial is None else {"GPUs per trial": trial.ranks}
    if trial is not None:
        training = {name: getattr(trial.training, name) for name in Training.__struct_fields__ if name != "data"}
        found |= {name.replace("_", " "): value for name, value in training.items()}
        found |= {"budget": budget_text(trial.budget), "depth": trial.depth, "micro-batches": trial.micro_batches}
    if result is not None and result.data_hash:
        found |= {
            "data hash": result.data_hash,
            "device": result.device_name,
            "execution": result.execution,
            "norm": result.norm,
            "graph": result.graph,
            "torch": result.versions.get("torch", ""),
        }
    return found


def common(outcomes: list[plan.Outcome]) -> dict[str, Any]:
    """Return the fields of a row's trials: the value where they agree, a text of all values where they do not."""
    found: dict[str, list] = {}
    for outcome in outcomes:
        for name, value in fields(outcome).items():
            found.setdefault(name, []).append(value)
    return {
        name: values[0] if all(v == values[0] for v in values) else ", ".join(dict.fromkeys(map(show, values)))
        for name, values in found.items()
    }


def compare(groups: Groups, runs: dict[str, plan.Run]) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """Return, for each row, the fields in which it differs from most rows, and a sentence for each such field.

    Args:
        runs: the run of each row, which has the size that it was meant to have.
    """
    values = {name: common(outcomes) for name, outcomes in groups.items()}
    differs: dict[str, list[str]] = {name: [] for name in values}
    notes = []
    for field in dict.fromkeys(field for found in values.values() for field in found):
        given = {name: found[field] for name, found in values.items() if field in found}
        usual = Counter(given.values()).most_common(1)[0][0]
        odd = {name: value for name, value in given.items() if value != usual}
        for name in odd:
            differs[name].append(field)
        if odd:
            each = ", ".join(f"{name} {show(value)}" for name, value in odd.items())
            notes.append(f"Unequal {field}: {each}; the others {show(usual)}.")
    for name, outcomes in groups.items():
        run, first = runs[name], outcomes[0]
        params = first.trial.params if first.trial else first.row.params
        if run.params is not None and params is not None and abs(params / run.params - 1) > run.tolerance:
            differs[name].insert(0, f"params {params / run.params - 1:+.0%}")
    return {name: tuple(found) for name, found in differs.items()}, notes


def show(value: Any) -> str:
    """Return a compared value as text."""
    return str(value).lower() if isinstance(value, bool) else str(value) or "none"


def budget_text(budget: Budget) -> str:
    """Return a budget in words: `10 minutes`, `500 steps`, `10M tokens`."""
    if budget.tokens is not None:
        return f"{short_count(budget.tokens)} tokens"
    return f"{budget.steps} steps" if budget.steps is not None else f"{budget.minutes:g} minutes"


def usual(values: list) -> Any:
    """Return the commonest value, None for none."""
    return Counter(values).most_common(1)[0][0] if values else None


def facts(runs: tuple[plan.Run, ...], outcomes: list[plan.Outcome]) -> dict[str, str]:
    """Return the facts of most rows; where a row differs it is marked instead."""
    found = {
        "description": "; ".join(dict.fromkeys(run.description for run in runs if run.description)),
        "started": ", ".join(dict.fromkeys(run.created for run in runs)),
    }
    sizes = [run for run in runs if run.params is not None]
    if sizes:
        limits = [f"within {short_share(run.tolerance)}" if run.matched else "not matched" for run in sizes]
        texts = [f"{short_count(run.params)}, {limit}" for run, limit in zip(sizes, limits, strict=True)]
        found["parameters"] = "; ".join(dict.fromkeys(texts))
    trials = [o.trial for o in outcomes if o.trial]
    results = [o.result for o in outcomes if o.result and o.result.data_hash]
    if trials:
        training = usual([t.training for t in trials])
        seeds = sorted({t.training.seed for t in trials})
        found["budget"] = usual([budget_text(t.budget) for t in trials])
        found["training"] = (
            f"batch {training.batch} x {training.chunk} bytes, AdamW lr {training.lr:g} {training.schedule}, "
            f"weight decay {training.weight_decay:g}, clip {training.clip:g}, "
            f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}"
            f"{f', {training.checkpoint_layers} layers checkpointed' if training.checkpoint_layers else ''}"
            f"{f', loss in {training.loss_chunks} chunks' if training.loss_chunks > 1 else ''}"
        )
    if results:
        result = usual([(r.data, r.data_hash) for r in results])
        found["data"] = f"{result[0]} {result[1]}".strip()
        found["device"] = usual([r.device_name for r in results])
        found["norm"] = usual([r.norm for r in results])
        found["CUDA graph"] = show(usual([r.graph for r in results]))
        versions = {name: version for r in results for name, version in r.versions.items()}
        found["versions"] = ", ".join(f"{name} {version}" for name, version in versions.items())
    return {name: text for name, text in found.items() if text}
