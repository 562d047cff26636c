"""cudagru's backward pass publishes one operand an exchange early (variants/cudagru/early.cuh); mistakes in that are rejected."""

from pathlib import Path

import pytest
from planting import tried

EARLY = str(Path(__file__).parents[2] / "variants" / "cudagru" / "early.cuh")
ERASURE = "erase(early_target(step - 1, turn));"
PATCHES = {
    "of the step before": (
        "publish(early_target(step + 1, turn), carry.a_z);",
        "publish(early_target(step, turn), carry.a_z);",
    ),
    "never erased": (ERASURE, ";"),
    "erased before it is read": (ERASURE, "erase(early_target(step + 1, turn));"),
    "none for the first step": ("publish(early_target(0, turn), Pair<Acc<S>>{0, 0});", ";"),
}


@pytest.mark.parametrize("mistake", PATCHES)
def test_a_mistake_with_the_early_operand_is_rejected(mistake, tmp_path):
    report, _ = tried("cudagru", (EARLY, *PATCHES[mistake]), tmp_path, "B3 T67 D48 typical")
    assert report.rejected
