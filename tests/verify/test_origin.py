"""Where an error starts, in words; a failing tensor carries them."""

import numpy as np
import pytest
from toys import Delta, established

from elmanctl.verify import origin, tolerance


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({}, ""),
        ({16: 3, 17: 3, 18: 3}, "the tail, a partial chunk"),
        ({18: 3}, "the tail, a partial chunk"),
        ({0: 9}, "the first step alone"),
        ({8: 3}, "a chunk edge, t 8"),
        ({8: 3, 16: 2}, "chunk edges, the first step of a chunk"),
        ({0: 3, 8: 3, 16: 2}, "chunk edges, the first step of a chunk"),
        ({7: 3, 15: 2}, "chunk edges, the last step of a chunk"),
        ({t: 1.1**t for t in range(3, 19)}, "from t 3 to the end"),
        ({t: 1.5 ** (t - 2) for t in range(3, 19)}, "growing from t 3"),
        ({t: 1.5 ** (t - 7) for t in range(8, 19)}, "growing from t 8, a chunk edge"),
        ({t: 1.5 ** (14 - t) for t in range(12)}, "growing backwards from t 11"),
        (dict.fromkeys(range(19), 3), "every step"),
        (dict.fromkeys(range(5, 19), 3), "from t 5 to the end"),
        (dict.fromkeys(range(8, 16), 3), "whole chunks, t 8 to 15"),
        (dict.fromkeys(range(5, 9), 3), "t 5 to 8"),
        (dict.fromkeys(range(19), float("inf")), "every step"),
        ({2: 3, 5: 3, 9: 3}, "3 of 19 steps"),
    ],
)
def test_a_course_is_put_in_words(bad, said):
    assert origin.describe([bad.get(t, 0.1) for t in range(19)], 8) == said


def test_without_time_or_with_one_step_nothing_is_said():
    assert origin.describe((), 8) == origin.describe([5.0], 8) == ""


def test_a_skipped_tail_and_a_late_gradient_are_told_apart_and_a_right_tensor_says_nothing():
    known = established(Delta, "float32", 19)
    rows = {}
    for fault, steps in (("tail", slice(16, 19)), ("all", slice(0, 19))):
        got = known.values["y"].copy()
        got[:, steps] *= 1.5
        rows[fault] = tolerance.judge("y", ("B", "T", "H", "N"), got, known.values["y"], known.errors["y"], 1e-7)
    right = tolerance.judge("y", ("B", "T", "H", "N"), known.values["y"], known.values["y"], known.errors["y"], 1e-7)
    assert rows["tail"].origin == "the tail, a partial chunk" and rows["tail"].start == 16
    assert rows["all"].origin == "every step" and right.origin == "" and right.ok
    missing = np.where(np.arange(19)[None, :, None, None] >= 16, np.nan, known.values["y"])
    row = tolerance.judge("y", ("B", "T", "H", "N"), missing, known.values["y"], known.errors["y"], 1e-7)
    assert row.origin == "the tail, a partial chunk" and row.group == "not finite"


def test_the_chunk_length_decides_what_a_tail_is():
    course = [0.1] * 16 + [3.0] * 3
    assert origin.describe(course, 8) == "the tail, a partial chunk"
    assert origin.describe(course, 19) == "from t 16 to the end"
