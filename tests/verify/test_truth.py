"""How a result is taken apart before it is judged."""

import numpy as np
import torch

from elmanctl.kernel import Kernel
from elmanctl.verify import truth

FUSED = Kernel(package="fused", inputs={"x": "B T H*M"}, outputs={"y": "B T H*M"})
SIZES = {"B": 2, "T": 9, "H": 3, "M": 4, "K": 8}


def test_products_of_known_sizes_are_taken_apart_and_others_stay():
    assert truth.split_products(("B", "T", "H*M"), (2, 9, 12), SIZES) == (("B", "T", "H", "M"), (2, 9, 3, 4))
    assert truth.split_products(("2*H*M+H", "M"), (27, 4), SIZES) == (("2*H*M+H", "M"), (27, 4))


def test_a_mistake_in_one_head_of_a_fused_axis_is_judged_and_named_as_that_head():
    """The wrong head is a thousandth of the others: its error is lost in theirs over the whole tensor."""
    random = np.random.default_rng(0)
    scale = np.repeat([1.0, 1e-3, 1.0], 4)
    exact = random.normal(size=(2, 9, 12)) * scale
    errors = 1e-4 * random.uniform(-1, 1, size=(8, 2, 9, 12)) * scale
    inputs = {"x": torch.zeros(2, 9, 12)}
    problem = truth.Problem(FUSED, {"K": 8}, "float32", SIZES, None, inputs, {}, 0)
    known = truth.Truth(problem, {"y": exact}, {"y": errors})
    assert known.judge({"y": torch.tensor(exact, dtype=torch.float32)})[0].ok
    wrong = exact.copy()
    wrong[:, :, 4:8] *= 1.02
    row = known.judge({"y": torch.tensor(wrong, dtype=torch.float32)})[0]
    assert not row.ok and row.group.endswith("H 1") and "H 1" in row.index
