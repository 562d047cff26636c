"""`elmanctl list`: every variant and baseline that can be used here, what is wrong with the others, and one of them in full."""

import dataclasses
from typing import Annotated, Any

import typer

from elmanctl.console import note, out, print_json, print_table
from elmanctl.options import show
from elmanctl.plugins.registry import Problem, Registry, registry
from elmanctl.variant import Spec

COLOURS = {"green": "green", "stale": "yellow", "red": "red"}


def register(app: typer.Typer) -> None:
    """Add the verb `list`."""

    @app.command("list")
    def list_(
        name: Annotated[str | None, typer.Argument(help="A variant to show in full: options, names, rules.")] = None,
        names: Annotated[
            bool, typer.Option("--names", help="Every published name in a row of its own, with its model's receipts.")
        ] = False,
        json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")] = False,
    ) -> None:
        """List variants and baselines, or show one in full."""
        known = registry()
        if names:
            rows = published(known, name)
            print_json(rows) if json else print_names(rows)
        elif name is not None:
            spec = known.resolve(name)
            spec.check()
            one = details(known, spec)
            print_json(one) if json else print_details(one, spec)
        elif json:
            rows = [row(known, spec) for spec in defaults(known)]
            print_json({"variants": rows, "problems": [dataclasses.asdict(p) for p in known.problems()]})
        else:
            print_list(known)


def defaults(known: Registry) -> list[Spec]:
    """Return every variant in its default configuration."""
    return [Spec(v, v.config()) for v in known.variants().values()]


def row(known: Registry, spec: Spec) -> dict[str, Any]:
    """Return what `list` says about one variant, as plain data; receipts are those of the configuration."""
    variant = spec.variant
    source = known.sources()[variant.name]
    return {
        "name": variant.name,
        "canonical": spec.name,
        "summary": variant.summary,
        "kind": "kernel" if variant.has_kernel else "baseline",
        "source": source.kind,
        "where": source.where,
        "hides": source.hides,
        "receipts": receipts(spec) if variant.has_kernel else [],
        "missing": variant.missing(),
        "install": variant.install,
    }


def published(known: Registry, of: str | None = None) -> list[dict[str, Any]]:
    """Return name, model, kind and receipts of every variant, preset and alias, or of those of one variant."""
    chosen = [known.resolve(of).variant] if of else known.variants().values()
    rows = []
    for variant in chosen:
        kind, seen = "kernel" if variant.has_kernel else "baseline", {}
        for name in (variant.name, *variant.presets, *variant.aliases):
            spec = known.resolve(name)
            if spec.name not in seen:
                seen[spec.name] = receipts(spec) if variant.has_kernel else []
            rows.append({"name": name, "canonical": spec.name, "kind": kind, "receipts": seen[spec.name]})
    return rows


def print_names(rows: list[dict[str, Any]]) -> None:
    """Print the table of published names."""
    from rich.text import Text

    table = [[r["name"], r["canonical"], Text.assemble(*receipt_parts(r))] for r in rows]
    print_table(["name", "model", "receipt"], table)


def receipts(spec: Spec) -> list[dict[str, Any]]:
    """Return the receipts of a configuration, for every target that has one; `state` is green, stale or red, with the reason.

    Where it has none of its own, or a stale one, that of another `model` which vouches for it (receipt.find).
    """
    from elmanctl.verify import receipt

    held = receipt.held(spec)
    for target in receipt.recorded(spec.variant) if spec.variant.has_kernel else ():
        own = held.get(target)
        if (own is None or own.state == "stale") and (other := receipt.find(spec, target)):
            held[target] = receipt.Held(other, "green", f"the same kernel as {other.model}")
    result = []
    for target, found in sorted(held.items()):
        one = found.receipt
        facts = {"dtypes": list(one.dtypes), "worst": one.worst, "created": one.created, "quick": one.quick}
        result.append({"target": target, "state": found.state, "why": found.why, "model": one.model, **facts})
    return result


def print_list(known: Registry) -> None:
    """Print the table of variants, then the problems and damaged receipts in red."""
    from rich.text import Text

    rows, damaged = [], {}
    for r in (row(known, spec) for spec in defaults(known)):
        damaged |= {one["why"]: r["name"] for one in r["receipts"] if not one["created"]}
        source = f"{r['source']}, hides {r['hides']}" if r["hides"] else r["source"]
        summary = r["summary"]
        if r["missing"]:
            summary = Text.assemble(summary, "  ", (f"needs {', '.join(r['missing'])}: {r['install']}", "yellow"))
        rows.append([r["name"], r["kind"], source, Text.assemble(*receipt_parts(r)), summary])
    rows += [
        [Text(p.plugin, "red"), Text("broken", "red"), None, None, Text(problem_text(p), "red")]
        for p in known.problems()
    ]
    rows += [[Text(n, "red"), Text("damaged", "red"), None, None, Text(why, "red")] for why, n in damaged.items()]
    print_table(["name", "kind", "source", "receipt", "summary"], rows)
    if not known.variants():
        note("No variant here. `elmanctl new NAME` makes one in ./variants.")


def receipt_text(entry: dict[str, Any]) -> str:
    """Return the receipts of one row in a few words."""
    return "".join(text for text, _ in receipt_parts(entry))


def receipt_parts(entry: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the receipts of one row as (text, colour): target, state, and what a green one found or that its file is damaged."""
    if entry["kind"] == "baseline":
        return [("library", "")]
    found = []
    for r in entry["receipts"]:
        words = [*(["quick"] if r["quick"] else []), f"{r['worst']:.1f}x", *([f"({r['why']})"] if r["why"] else [])]
        more = f" {' '.join(words)}" if r["state"] == "green" else "" if r["created"] else " (damaged)"
        found += [(", " if found else "", ""), (f"{r['target']} {r['state']}{more}", COLOURS[r["state"]])]
    return found or [("none", "")]


def problem_text(problem: Problem) -> str:
    """Return one problem as a line that names its place."""
    return problem.text if problem.where in problem.text else f"{problem.text} [{problem.where}]"


def details(known: Registry, spec: Spec) -> dict[str, Any]:
    """Return all that is declared about one variant, as plain data; `value` holds the options of the name that was asked for."""
    variant = spec.variant
    options = [
        {
            "name": f.name,
            "tag": f.metadata.get("tag"),
            "default": f.default,
            "value": getattr(spec.config, f.name),
            "choices": list(f.metadata.get("choices", ())),
            "help": f.metadata["help"],
        }
        for f in dataclasses.fields(variant.config)
    ]
    rules = [
        {"of": name, "rule": rule.text(), "why": rule.why, "strength": "method" if rule.method else "hard"}
        for name in variant.rules.sizes
        for rule in variant.rules.of(name)
    ]
    rules += [
        {"of": "combination", "rule": "", "why": why, "strength": "hard"} for why, _ in variant.rules.combinations
    ]
    return {
        **row(known, spec),
        "grammar": variant.name + "".join(f"[{tag}<{f.name}>]" for tag, f in variant.tags()),
        "options": options,
        "presets": variant.presets,
        "preset_receipts": {name: receipts(known.resolve(name)) for name in variant.presets if variant.has_kernel},
        "aliases": variant.aliases,
        "rules": rules,
        "sublayers": list(variant.sublayers),
        "library": variant.library,
    }


def print_details(one: dict[str, Any], spec: Spec) -> None:
    """Print one variant in full."""
    console = out()
    facts = {
        "name": f"{one['canonical']}  (grammar {one['grammar']})",
        "kind": one["kind"] + (f", {one['library']}" if one["library"] else ""),
        "source": f"{one['source']}, {one['where']}" + (f", hides {one['hides']}" if one["hides"] else ""),
        "receipt": receipt_text(one),
        "damaged": "; ".join(r["why"] for r in one["receipts"] if not r["created"]),
        "sublayers": ", ".join(one["sublayers"]) if len(one["sublayers"]) > 1 else "",
        "needs": f"{', '.join(one['missing'])}, absent here: {one['install']}" if one["missing"] else "",
    }
    console.print(f"{spec.variant.name}: {one['summary']}", style="bold", markup=False)
    for key, text in facts.items():
        if text:
            console.print(f"  {key:<10}{text}", markup=False)
    sections = {
        "Options": (
            ["option", "tag", "default", "here", "choices", "meaning"],
            [
                [
                    o["name"],
                    o["tag"],
                    show(o["default"]),
                    show(o["value"]),
                    ", ".join(map(str, o["choices"])),
                    o["help"],
                ]
                for o in one["options"]
            ],
        ),
        "Presets": (
            ["preset", "options", "receipt"],
            [
                [
                    name,
                    ", ".join(f"{k}={show(v)}" for k, v in pinned.items()),
                    receipt_text({"kind": one["kind"], "receipts": one["preset_receipts"].get(name, [])}),
                ]
                for name, pinned in one["presets"].items()
            ],
        ),
        "Aliases": (["alias", "stands for"], [[a, target] for a, target in one["aliases"].items()]),
        "Rules": (
            ["on", "rule", "strength", "reason"],
            [[r["of"], r["rule"], r["strength"], r["why"]] for r in one["rules"]],
        ),
    }
    for title, (columns, rows) in sections.items():
        if rows:
            console.print()
            print_table(columns, rows, title=title)
