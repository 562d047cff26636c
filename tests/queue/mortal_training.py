"""A trial of the tool that is killed at each of its writes (mortal.py), and what must hold in the end: the records of one that was not."""

import shutil
from pathlib import Path

import mortal
import msgspec

from elmanctl.errors import UserError
from elmanctl.files import write_json
from elmanctl.records import Budget, Training, Trial


class Trains:
    """A trial of the tool with checkpoints and evaluations: it dies, and goes on to the records of one that did not."""

    TRIAL = Trial(
        label="Toy",
        model="Toy:dropout=0.1",
        dim=16,
        depth=1,
        params=0,
        budget=Budget(steps=3),
        training=Training(batch=2, chunk=8, checkpoint_every=2, eval_every=2, eval_batches=1, data="data/pile.txt"),
    )

    def __init__(self):
        self.expected = None

    def prepare(self, run: Path) -> None:
        write_json(run / "trial.json", self.TRIAL)
        if self.expected is None:
            whole = run.parent / "whole"
            shutil.copytree(run, whole)
            self.train(whole)  # in this process, so that the forks have all that is imported
            self.expected = self.records(whole)

    @staticmethod
    def train(run: Path) -> int:
        from elmanctl import trial

        return trial.main([str(run), "--go-on"])

    def mortal(self, run: Path, number: int, note: Path) -> None:
        mortal.Fork(lambda: self.train(run), number, note).wait()

    def finish(self, run: Path) -> None:
        mortal.Fork(lambda: self.train(run)).wait()

    @staticmethod
    def records(run: Path) -> dict:
        def plain(line: bytes) -> dict:
            return {k: v for k, v in msgspec.json.decode(line).items() if k not in MEASURED}

        return {
            "steps": [plain(line) for line in (run / "steps.jsonl").read_bytes().splitlines()],
            "heldout": [plain(line) for line in (run / "heldout.jsonl").read_bytes().splitlines()],
            "result": plain((run / "result.json").read_bytes()),
            "checkpoints": sorted(path.name for path in (run / "checkpoints").iterdir()),
        }

    def wrong(self, run: Path) -> list[str]:
        try:
            found = self.records(run)
        except (UserError, OSError, msgspec.DecodeError) as error:
            return [str(error)]
        return [f"{key}: {found[key]}"[:600] for key in found if found[key] != self.expected[key]]


MEASURED = {"seconds", "tokens_per_second", "peak_memory_bytes"}
