"""`elmanctl data`: make the embedded corpus, look into a data file."""

from pathlib import Path
from typing import Annotated

import typer

from elmanctl.console import note, print_json, print_table
from elmanctl.errors import CheckFailed
from elmanctl.sizes import parse_count

DEFAULT_SIZE = "200M"


def register(app: typer.Typer) -> None:
    """Add the verb `data`."""
    data = typer.Typer(no_args_is_help=True, help="Make or inspect training data.")
    app.add_typer(data, name="data")

    @data.command()
    def make(
        size: Annotated[str, typer.Option(help="Bytes wanted, such as 50M.")] = DEFAULT_SIZE,
        out: Annotated[Path, typer.Option(help="File to write; its manifest goes beside it.")] = Path(
            "data/corpus.txt"
        ),
        json: Annotated[bool, typer.Option("--json", help="Print the manifest.")] = False,
    ) -> None:
        """Write a corpus from text on this machine: the interpreter's library, packages, documentation, manuals."""
        from elmanctl import corpus

        manifest = corpus.make(out, parse_count(size, "--size"))
        if manifest.bytes < manifest.asked:
            note(f"Found {manifest.bytes:,} of the {manifest.asked:,} bytes asked for: this machine has no more text.")
        if json:
            print_json({"path": str(out), **{key: getattr(manifest, key) for key in manifest.__struct_fields__}})
            return
        rows = [[source, f"{n['documents']:,}", f"{n['bytes']:,}"] for source, n in sorted(manifest.sources.items())]
        rows.append(["all", f"{manifest.documents:,}", f"{manifest.bytes:,}"])
        print_table(["source", "documents", "bytes"], rows, right=("documents", "bytes"))
        print_table(["written to", "hash"], [[out, manifest.hash]])

    @data.command()
    def check(
        file: Annotated[Path, typer.Argument(help="The data file.")],
        json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")] = False,
    ) -> None:
        """Describe a data file: size, bytes used, documents, zero runs, hash. Exits 1 where padding is found."""
        from elmanctl import corpus
        from elmanctl.data import map_bytes

        found = corpus.check(file, map_bytes(file))
        runs = f"{found['zero_runs']:,} run{'s' * (found['zero_runs'] != 1)}"
        if json:
            print_json(found)
        else:
            frequent = "  ".join(f"{byte} {share:.1%}" for byte, share in found["most_frequent"].items())
            rows = [
                ["bytes", f"{found['bytes']:,}"],
                ["documents", f"{found['documents']:,} (separated by 0x1e)"],
                ["distinct bytes", f"{found['distinct_bytes']}, entropy {found['entropy_bits']:.3f} bits per byte"],
                ["printable ASCII", f"{found['printable_share']:.2%}, above 127 {found['high_share']:.2%}"],
                ["most frequent", frequent],
                ["zero bytes", f"{found['zero_bytes']:,}, {runs} of 8 or more"],
                ["hash", found["hash"]],
            ]
            print_table(["", ""], rows, title=str(file))
        if found["zero_runs"]:
            raise CheckFailed(
                f"{file} has {runs} of zero bytes, the longest of {found['longest_zero_run']:,}: padding, which a model "
                "predicts for free, so that losses come out too low. Take it out."
            )
