"""What a training run in the folder `run` left, and progress that acts after one of its steps."""

from pathlib import Path

from elmanctl.files import read_json
from elmanctl.records import Result, read_steps

RUN = Path("run")


def steps(folder=RUN):
    return read_steps(folder / "steps.jsonl")


def result(folder=RUN):
    return read_json(folder / "result.json", Result)


class Watch:
    """Progress that calls a function after one step."""

    def __init__(self, number, act):
        self.number, self.act, self.shares = number, act, []

    def phase(self, text):
        pass

    def step(self, step, share, tokens_per_second):
        self.shares.append(share)
        if step.step == self.number:
            self.act()
