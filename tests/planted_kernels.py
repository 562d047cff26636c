"""The planted kernels of host_backend/ as tests run them: their names or numbers, a build that runs one, and what a right one returns."""

from pathlib import Path

import torch
from host_backend.binding import kernel

from elmanctl import build, launch
from elmanctl.flavours import RACE
from elmanctl.verify.sanitize.child import places

SOURCE = Path(__file__).parent / "host_backend" / "planted.cu.cc"
MISTAKES = [
    "none",
    "missing_sync_block",
    "missing_sync_warp",
    "shuffle_as_fence",
    "divergent_collective",
    "divergent_barrier",
    "returned_lanes",
    "past_the_end",
    "into_the_next",
    "past_the_launch",
    "forgotten_wait",
    "misaligned_pair",
    "other_block_unordered",
    "wait_in_plain_launch",
    "early_exit",
    "skipped_group_barrier",
    "bad_threads",
    "bad_blocks",
    "too_much_shared",
    "local_array",
    "published_twice",
    "mark_published",
    "never_published",
    "words_in_plain_launch",
    "missing_role_barrier",
]
NEIGHBOURS, EXCHANGE, PRODUCT, ROUND, WORDS, ROLES = 100, 101, 102, 103, 104, 105


class Planted:
    """A build of the planted kernels: `run(which)` returns (y, error text). The race build watches every tensor."""

    def __init__(self, target):
        self.target, self.library = target, build.load(kernel, {}, "float32", target)

    def run(self, which, order=(0, 0), x=None):
        x = torch.arange(1.0, 129.0) if x is None else x
        choice = torch.zeros(MISTAKES.index(which) if isinstance(which, str) else which, dtype=torch.int32)
        self.library.order(*order)
        watch = (lambda library, tensors: library.watch(places(tensors))) if self.target == RACE else None
        try:
            with launch.on_host(self.target, watch), launch.guarded():
                return launch.run_forward(kernel, {}, {"x": x, "choice": choice})["y"], ""
        except RuntimeError as error:
            return None, str(error)


def expected(which):
    x = torch.arange(1.0, 129.0)
    if which == "none":
        return x[:64].flip(0)
    if which == ROLES:
        return 2 * x[:64].flip(0)
    if which == WORDS:
        return x.view(2, 64).flip(0).reshape(128)
    return x[:32].view(16, 2).flip(1).reshape(32) if which == NEIGHBOURS else 2 * x.view(2, 64).flip(0).reshape(128)
