"""`elmanctl receipt`: what verify wrote down about a model, and whether a case drawn from it gives the same again."""

import random
from typing import Annotated

import typer

from elmanctl.console import note, out, print_json, print_table
from elmanctl.errors import CheckFailed, UserError
from elmanctl.plugins.registry import registry
from elmanctl.variant import parse_options

AGREE, NEAR = 0.2, 0.02  # two machines' figures for one case agree within a fifth, and below this in any case


def register(app: typer.Typer) -> None:
    """Add the verb `receipt`."""

    @app.command()
    def receipt(
        name: Annotated[str, typer.Argument(help="A model, with options in the name or by -o.")],
        option: Annotated[list[str] | None, typer.Option("-o", help="key=value.")] = None,
        target: Annotated[str | None, typer.Option("--target", help="host, sm_90a and so on. Default: all.")] = None,
        recheck: Annotated[
            bool,
            typer.Option("--recheck", help="Run its worst case and one drawn at random again; figures must agree."),
        ] = False,
        json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")] = False,
    ) -> None:
        """Print a model's receipts; exit 1 if one is red, or does not agree with a case run again."""
        import msgspec

        from elmanctl.verify import receipt as receipts

        spec = registry().resolve(name, parse_options(option or []))
        held = receipts.held(spec, None if target is None else (target,))
        if not held:
            raise UserError(
                f"{spec.name} has no receipt{f' for {target}' if target else ''}. elmanctl verify makes one."
            )
        again = {t: run_again(spec, h) for t, h in held.items() if h.receipt.created} if recheck else {}
        if json:
            print_json(
                [
                    {"state": h.state, "why": h.why, "recheck": again.get(t), **msgspec.to_builtins(h.receipt)}
                    for t, h in held.items()
                ]
            )
        else:
            for h in (h for h in held.values() if h.receipt.created):
                show(spec, h)
            for checks in again.values():
                for check in checks:
                    out().print(check["text"], markup=False, soft_wrap=True)
        bad = [f"{t}: {h.why}" for t, h in held.items() if h.state == "red"]
        bad += [c["text"] for checks in again.values() for c in checks if not c["ok"]]
        if bad:
            raise CheckFailed("; ".join(bad))


def run_again(spec, held) -> list[dict]:
    """Run the worst case of a receipt and one that nobody could foresee, from its seed; say whether the figures agree."""
    from elmanctl.verify import plan, session

    kept = held.receipt
    if held.state == "stale":
        return [{"ok": True, "text": f"{kept.target}: stale ({held.why}); there is nothing to run it against."}]
    if not kept.results:
        return [{"ok": False, "text": f"{kept.target}: it names no case."}]
    device = "cpu" if kept.target == "host" else "cuda"
    if device == "cuda" and (missing := no_device(kept.target)):
        note(f"{kept.target} is not run again: {missing}")
        return []
    drawn = random.SystemRandom().choice(sorted(kept.results))
    found = []
    for case in dict.fromkeys([max(kept.results, key=kept.results.get), drawn]):
        outcome = session.verify(plan.Request(spec, device, kept.seed, case=case, thorough=kept.thorough))
        check = outcome.checks[0]
        now = round(check.worst.ratio, 4) if check.rows else float("inf")
        ok = check.ok and abs(now - kept.results[case]) <= NEAR + AGREE * max(now, kept.results[case])
        verdict = "agrees" if ok else "DOES NOT AGREE"
        text = f"{kept.target} {case}, seed {kept.seed}: {now:.3g} of the limit now, {kept.results[case]:.3g} in the receipt; {verdict}."
        found.append({"ok": ok, "case": case, "now": now, "kept": kept.results[case], "text": text})
    return found


def no_device(target: str) -> str:
    """Return why a device receipt cannot be run again here, or nothing."""
    import torch

    if not torch.cuda.is_available():
        return "torch sees no GPU here."
    from elmanctl.launch import target_of

    mine = target_of(torch.empty(0, device="cuda"))
    return "" if mine == target else f"the GPU here is {mine}."


def show(spec, held) -> None:
    """Print one receipt."""
    from elmanctl.verify.cases import declared
    from elmanctl.verify.record import MUTANTS

    r = held.receipt
    level = "quick" if r.quick else "thorough" if r.thorough else "default"
    proof = r.proof
    facts = {
        "state": held.state + (f": {held.why}" if held.why else ""),
        "made": f"{r.created} on {r.device_name}, seed {r.seed}, {r.seconds:.0f} s, {r.cases} {level} checks",
        "with": ", ".join([r.compiler, *(f"{k} {v}" for k, v in r.versions.items())]).lstrip(", "),
        "dtypes": ", ".join(r.dtypes),
        "sources": r.source_hash[:12] + "".join(f", {part} {value[:8]}" for part, value in r.parts.items()),
        "builds": ", ".join(f"{dtype} {key[:12]}" for dtype, key in r.keys.items()),
        "declared": declared(spec) if held.state != "stale" else "",
        "worst": f"{r.worst:.3g} of the limit ({r.worst_tensor})",
        "sanitized": ", ".join(r.sanitized) or "no",
        "proof": f"kernel mutants {proof.killed} of {proof.mutants} killed ({proof.score:.1%}), {proof.equivalent} equivalent, "
        f"{f'a sample smaller than the usual {MUTANTS}, ' if proof.mutants < MUTANTS else ''}"
        f"truth mutants {proof.truth_killed} of {proof.truth_mutants}, seed {proof.seed}"
        if proof
        else "none; elmanctl verify --prove makes one",
        "failed": ", ".join(r.failed),
        "seal": f"{r.seal[:12]}, {'intact' if r.intact else 'BROKEN'}" if r.seal else "none",
    }
    out().print(f"{spec.name} on {r.target}", style="bold", markup=False)
    for key, text in facts.items():
        if text:
            out().print(f"  {key:<10}{text}", markup=False, soft_wrap=True)
    if r.tensors:
        rows = [[tensor, f"{ratio:.3g}"] for tensor, ratio in sorted(r.tensors.items(), key=lambda item: -item[1])]
        print_table(["tensor", "error/limit"], rows, right=("error/limit",))
    if proof and proof.shapes:
        rows = [[s.case, f"{s.truth_killed} of {s.truth_seen}", f"{s.killed} of {s.seen}"] for s in proof.shapes]
        print_table(["shape", "truth mutants", "kernel mutants"], rows, right=("truth mutants", "kernel mutants"))
    for survivor in proof.survivors if proof else ():
        out().print(f"  survived  {survivor}", markup=False, soft_wrap=True)
    for place in (proof.divisions or ()) if proof else ():
        out().print(f"  left out  {place}", markup=False, soft_wrap=True)
