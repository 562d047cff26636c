"""The host backend must name each planted mistake, pass right kernels in every order, and round as torch does.

* `plain` is an ordinary host build, `race` one with every load and store checked for a barrier.
* A mistake that a GPU might survive by luck must be an error here.
"""

import ctypes
import re
import subprocess
from pathlib import Path

import pytest
import torch
from host_backend.binding import kernel
from planted_kernels import EXCHANGE, NEIGHBOURS, PRODUCT, ROLES, ROUND, SOURCE, WORDS, Planted, expected

from elmanctl import launch
from elmanctl.flavours import HOST, RACE

ORDERS = [(0, 0), (1, 0), (2, 1), (2, 2), (2, 3)]


@pytest.fixture(scope="module")
def plain():
    return Planted(HOST)


@pytest.fixture(scope="module")
def race():
    return Planted(RACE)


@pytest.mark.parametrize("which", ["none", NEIGHBOURS, EXCHANGE, WORDS, ROLES])
@pytest.mark.parametrize("library", ["plain", "race"])
def test_right_kernels_pass_in_every_order(which, library, request):
    for order in ORDERS:
        y, error = request.getfixturevalue(library).run(which, order)
        assert error == ""
        want = expected(which)
        assert torch.equal(y[: len(want)], want)


LOUD = {
    "divergent_collective": ["divergent warp collective: block 0 thread 16 is in shfl_xor at planted.cu.cc:", "in shfl at planted.cu.cc:"],
    "divergent_barrier": ["divergent sync_block: block 0 thread 32 at planted.cu.cc:", "others at planted.cu.cc:"],
    "returned_lanes": ["divergent warp collective: block 0", "returned while its warp is in shfl_xor at planted.cu.cc:"],
    "past_the_end": ["block 0 wrote past the end of a shared array"],
    "into_the_next": ["block 0 wrote past the end of a shared array"],
    "past_the_launch": ["shared array at planted.cu.cc:", "past the launch's 544 bytes"],
    "forgotten_wait": ["copy without a wait: block 0 thread 0 returned with 1 copies in flight"],
    "misaligned_pair": ["load2 at ", "is not a multiple of 8"],
    "wait_in_plain_launch": ["a wait for other blocks in a launch that is not cooperative, at planted.cu.cc:"],
    "early_exit": ["cooperative grid of 2 blocks", "deadlock: no thread can go on;", "block 1 threads 0-63 have returned",
                   "block 0 threads 0-0 wait in group barrier at planted.cu.cc:"],
    "bad_threads": ["turn_around: grid of 1 blocks of 48 threads", "launch refused: the number of threads must be a multiple of 32"],
    "bad_blocks": ["grid of 0 blocks", "launch refused: the number of blocks"],
    "published_twice": ["a word of an exchange is published before it was erased, at planted.cu.cc:"],
    "mark_published": ["the mark of an absent word is published as a value, at planted.cu.cc:"],
    "never_published": ["pass_words: cooperative grid of 2 blocks", "deadlock: no thread can go on;",
                        "block 0 threads 0-31 wait in exchange at planted.cu.cc:", "block 1 threads 0-31 have returned"],
    "words_in_plain_launch": ["a wait for other blocks in a launch that is not cooperative, at planted.cu.cc:"],
    "too_much_shared": ["300000 bytes of shared memory", "launch refused: more shared memory than the 232448 bytes"],
}  # fmt: skip


@pytest.mark.parametrize("mistake", LOUD)
def test_a_mistake_that_hangs_or_corrupts_is_named(plain, mistake):
    _, error = plain.run(mistake)
    for part in LOUD[mistake]:
        assert part in error
    y, error = plain.run("none")
    assert error == "" and torch.equal(y[:64], expected("none")), "the library stays usable"


def test_a_missing_block_barrier_reads_nan_in_some_order(plain):
    values = [plain.run("missing_sync_block", order)[0][:64] for order in ORDERS]
    assert any(v.isnan().any() for v in values)


RACES = {
    "missing_sync_block": ["race: read after write of shared memory byte", "race: write after read of shared memory byte"],
    "missing_sync_warp": ["race: read after write of shared memory byte", "race: write after read of shared memory byte"],
    "missing_role_barrier": ["race: read after write of shared memory byte", "race: write after read of shared memory byte"],
    "shuffle_as_fence": ["race: read after write of shared memory byte"],
    "other_block_unordered": ["after write of tensor y byte", "write after read of tensor y byte"],
    "skipped_group_barrier": ["after write of tensor y byte", "write after read of tensor y byte"],
    "past_the_end": ["block 0 thread 0: access past the end of shared memory", "block 0 thread 0: access past the end of a shared array"],
    "into_the_next": ["block 0 thread 0: access past the end of a shared array"],
}  # fmt: skip


@pytest.mark.parametrize("mistake", RACES)
def test_the_race_check_names_two_threads_in_every_order(race, mistake):
    for order in ORDERS[:3]:
        _, error = race.run(mistake, order)
        assert any(text in error for text in RACES[mistake]), error
        assert "planted.cu.cc:" in error, "the line in the source"


def test_race_report_gives_threads_and_both_lines(race):
    _, error = race.run("shuffle_as_fence")
    found = re.search(
        r"block 0 thread (\d+) then block 0 thread (\d+), no barrier .*\((.*):(\d+), then (.*):(\d+)\)", error
    )
    first, second, file, write, other_file, read = found.groups()
    assert int(first) == int(second) ^ 1 and file == other_file == "planted.cu.cc"
    lines = SOURCE.read_text().splitlines()
    assert lines[int(write) - 1].strip() == "a[t] = x[t];" and lines[int(read) - 1].strip() == "y[t] = a[t ^ 1];"


def test_an_entry_can_refuse_with_its_own_text(plain):
    x, choice = torch.arange(1.0, 129.0), torch.zeros(0, dtype=torch.int32)
    with pytest.raises(RuntimeError, match="^there is no backward pass for mistake 0$"):
        launch.run_backward(kernel, {}, {"x": x, "choice": choice, "y": x}, {"d_y": x})


def test_matrix_product_follows_the_documented_fragments(plain):
    x = torch.randn(128).bfloat16().float()
    y, error = plain.run(PRODUCT, x=x)
    i, k, j = torch.arange(16)[:, None], torch.arange(16), torch.arange(8)
    a, b = x[(i + k) % 8].double(), x[(k[:, None] * j) % 8].double()
    assert error == ""
    assert torch.equal(y.view(16, 8), (a @ b).float())


def test_bf16_rounds_to_nearest_even_as_torch_does(plain):
    generator = torch.Generator().manual_seed(1)
    for _ in range(200):
        bits = torch.randint(-(2**31), 2**31, (128,), generator=generator).to(torch.int32)
        bits[:4] = torch.tensor([0x3F808000, 0x3F818000, 0x00000001, 0x7F7FFFFF])  # ties, a subnormal, the largest
        x = bits.view(torch.float32)
        y, _ = plain.run(ROUND, x=x)
        want = x.bfloat16().float()
        number = ~want.isnan()
        assert torch.equal(y[number], want[number]) and bool(y[~number].isnan().all())
    assert plain.run(ROUND, x=torch.full((128,), float("nan")))[0].view(torch.int32)[0] == 0x7FFF0000


def test_only_our_names_are_exported(plain):
    listed = subprocess.run(
        ["nm", "-D", "--defined-only", str(plain.library.path)], capture_output=True, text=True, check=True
    )
    names = {line.split()[-1] for line in listed.stdout.splitlines()}
    assert names == {"elman_forward", "elman_backward", "elman_host_order", "elman_host_stacks"}


def test_libraries_share_the_stacks_of_their_threads(plain, race):
    """Each has a guard page: with stacks of its own, every kernel loaded would take two mappings a thread, and Linux allows 65,530."""
    places = {
        ctypes.addressof(ctypes.c_char.in_dll(part.library.handle, "elman_host_stacks")) for part in (plain, race)
    }
    assert len(places) == 1 and plain.run("none")[1] == race.run("none")[1] == ""
    assert Path("/proc/self/maps").read_text().count("---p") >= 64  # a guard page for each thread
