"""`elmanctl gpus`: the GPUs of this machine, who uses them, and which are free."""

from typing import Annotated

import msgspec
import typer

from elmanctl.console import note, print_json, print_table


def register(app: typer.Typer) -> None:
    """Add the verb `gpus`."""

    @app.command()
    def gpus(
        json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")] = False,
    ) -> None:
        """List the GPUs of this machine and what each is used for."""
        from elmanctl import gpus as nvml
        from elmanctl.sizes import short_bytes

        box = nvml.gpus()
        if json:
            print_json([{**msgspec.to_builtins(gpu), "busy": gpu.busy} for gpu in box])
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
                g.busy or "free",
                g.uuid,
            ]
            for g in box
        ]
        print_table(["GPU", "name", "memory", "used", "state", "UUID"], rows, right=("GPU", "memory", "used"))
