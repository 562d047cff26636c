"""`elmanctl gpus`: the GPUs of this machine, who has what, which are free and why the others are not."""

from typing import Annotated

import msgspec
import typer

from elmanctl.console import note, print_json, print_table
from elmanctl.errors import UserError


def register(app: typer.Typer) -> None:
    """Add the verb `gpus`."""

    @app.command()
    def gpus(
        off: Annotated[str | None, typer.Option("--off", help="Keep elmanctl, of every user, off these.")] = None,
        on: Annotated[str | None, typer.Option("--on", help="Take these off the stay-off list.")] = None,
        why: Annotated[str | None, typer.Option("--why", help="With --off: what the others are told.")] = None,
        json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")] = False,
    ) -> None:
        """List the GPUs of this machine, who holds each, and each reason why one is not free."""
        from elmanctl.gpus import choice, free, locks
        from elmanctl.sizes import short_bytes

        if why is not None and off is None:
            raise UserError("--why says why GPUs are put on the stay-off list: give them with --off.")
        sampler = free.Sampler().settle()
        box = sampler.box
        if (off or on) and not box:
            raise UserError("NVML sees no GPU here, so there is none to stay off.")
        for uuid in choice.parse(off, box).uuids if off is not None else ():
            locks.stay_off(uuid, why or "")
        for uuid in choice.parse(on, box).uuids if on is not None else ():
            locks.allow(uuid)
        reasons = {gpu.uuid: sampler.reasons(gpu.uuid) for gpu in box}
        if json:
            print_json(
                [
                    {
                        **msgspec.to_builtins(gpu),
                        "free": not reasons[gpu.uuid],
                        "reasons": reasons[gpu.uuid],
                        "holder": locks.holder(gpu.uuid),
                    }
                    for gpu in box
                ]
            )
            return
        if not box:
            note("NVML sees no GPU here.")
            return
        rows = [
            [
                g.index,
                g.name,
                f"{short_bytes(g.memory_used)} of {short_bytes(g.memory_total)}",
                f"{g.utilisation} %",
                "; ".join(f"{r.name}: {r.text}" for r in reasons[g.uuid]) or "free",
                g.uuid,
            ]
            for g in box
        ]
        print_table(["GPU", "name", "memory", "used", "state", "UUID"], rows, right=("GPU", "memory", "used"))
