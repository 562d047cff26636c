"""Everything that writes is killed at each of its writes: what goes on after it loses nothing and does nothing twice."""

import json
import os
import subprocess
import sys
from pathlib import Path

import mortal_scenarios
import pytest

TESTS = Path(__file__).parent
# So many writes each has at least; the first and the last kinds of write that it is killed at.
LEAST = {
    "scheduler": (10, "event, half written"),
    "late scheduler": (15, "event, half written"),
    "supervisor": (20, "subprocess.Popen"),
    "supervisor of a broken trial": (22, "os.rename"),
    "supervisor of a killed trial": (20, "the gate is open"),
    "supervisor beside a stranger": (25, "line, half written"),
    "adopting supervisor": (14, "the gate is open"),
    "cancel": (12, "event, half written"),
    "enqueue": (12, "os.rename"),
    "trial": (45, "line, half written"),
}


def test_every_scenario_is_here():
    assert LEAST.keys() == mortal_scenarios.SCENARIOS.keys()


@pytest.mark.parametrize("name", LEAST)
def test_killed_at_any_write_the_rest_goes_on_as_if_nothing_had_been(name, trainee, tmp_path):
    call = [sys.executable, str(TESTS / "mortal.py"), name, str(tmp_path / "places")]
    ran = subprocess.run(
        call, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True, timeout=250
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    found = [json.loads(line) for line in ran.stdout.splitlines() if line.startswith('{"place"')]
    assert [entry for entry in found if entry["wrong"]] == []
    least, kind = LEAST[name]
    assert len(found) >= least and any(entry["place"].endswith(kind) for entry in found)
