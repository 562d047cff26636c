"""The division of a dense recurrence over a device: what fits, what is chosen, and that it covers the whole of W and of the batch."""

import itertools

import pytest

from elmanctl import tiles
from elmanctl.spread import MATRIX, matrix
from elmanctl.tensors import ArgumentError, cdiv
from elmanctl.tiles import CHUNK, DENSE, DEVICES, REGISTERS, ROWS, TILE, DoesNotFit

H200 = DEVICES["sm_90a"]
dense = DENSE.choose
WIDTHS = (16, 48, 80, 256, 768, 1024, 1536, 1552, 2048, 2432)
BATCHES = (1, 3, 8, 17, 32, 64, 128, 1000)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("device", [*DEVICES.values(), None], ids=[*DEVICES, "host"])
def test_a_division_covers_everything_and_fits(device, dtype):
    for B, D in itertools.product(BATCHES, WIDTHS):
        try:
            c = dense({"B": B, "D": D}, dtype, device)
        except DoesNotFit:
            assert device and D * D * tiles.BYTES[dtype] > device.multiprocessors * device.shared_bytes / 4, (B, D)
            continue
        assert set(c) == set(DENSE.constants)
        assert c["WARPS"] * c["CHUNKS"] * CHUNK >= D and c["WARPS"] >= 2 * c["TILES"] and 0 <= c["SHARED"] <= c["TILES"]
        assert not c["WHOLE"] or (c["WARPS"] * c["CHUNKS"] * CHUNK == D and B % (ROWS * c["TURNS"]) == 0)
        if device is None:
            continue
        groups = cdiv(cdiv(B, ROWS), c["TURNS"])
        assert groups * cdiv(D, TILE * c["TILES"]) <= device.multiprocessors, "one block on each multiprocessor"
        element = tiles.BYTES[dtype]
        kept = c["WARPS"] * c["CHUNKS"] * c["SHARED"] * TILE * CHUNK * element
        assert kept + 2 * c["WARPS"] * c["TILES"] * TILE * ROWS * 4 <= device.shared_bytes
        held = c["CHUNKS"] * (c["TILES"] - c["SHARED"]) * TILE * CHUNK * element // 32 // 4  # 32-bit words of a lane
        assert held < min(255, REGISTERS // (32 * c["WARPS"]))


@pytest.mark.parametrize(
    ("B", "D", "tiles_of_a_block", "turns"),
    [(32, 768, 2, 1), (32, 1536, 3, 1), (32, 2048, 4, 1), (8, 1536, 1, 1), (64, 1536, 3, 2), (128, 1536, 3, 4)],
)
def test_the_measured_sizes_get_the_division_that_was_fastest(B, D, tiles_of_a_block, turns):
    chosen = dense({"B": B, "D": D}, "bfloat16", H200)
    assert (chosen["TILES"], chosen["TURNS"], chosen["WHOLE"]) == (tiles_of_a_block, turns, 1)


@pytest.mark.parametrize(
    ("B", "D", "dtype", "ring"),
    [(32, 1536, "bfloat16", 64), (32, 2048, "bfloat16", 64), (33, 2048, "bfloat16", 32), (32, 1536, "float32", 32)],
)
def test_the_exchange_stays_within_its_share_of_the_cache(B, D, dtype, ring):
    assert dense({"B": B, "D": D}, dtype, H200)["RING"] == ring


def test_a_width_that_does_not_fit_says_which_would():
    with pytest.raises(
        DoesNotFit, match=r"D=8192 in bfloat16: 128 MiB .* of 132 multiprocessors.* The widest that fits is D=4096\."
    ):
        dense({"B": 32, "D": 8192}, "bfloat16", H200)
    assert dense({"B": 32, "D": 4096}, "bfloat16", H200)
    with pytest.raises(DoesNotFit):
        dense({"B": 32, "D": 4112}, "bfloat16", H200)


def test_fewer_multiprocessors_make_fewer_groups_or_refuse():
    half = tiles.Device(66, H200.shared_bytes)
    assert dense({"B": 32, "D": 1536}, "bfloat16", half)["TURNS"] > 1
    with pytest.raises(DoesNotFit):
        dense({"B": 32, "D": 1536}, "bfloat16", tiles.Device(8, 101_376))


def test_the_host_division_shows_every_feature_of_the_kernel():
    few, many, full, wide = (
        dense({"B": B, "D": D}, "float32", None) for B, D in ((3, 48), (17, 80), (8, 128), (2, 144))
    )
    assert few["TILES"] > few["SHARED"] > 0 and few["TURNS"] == 1 and not few["WHOLE"]
    assert many["TURNS"] == 2 and full["WHOLE"] and wide["CHUNKS"] == 2


def test_an_unknown_architecture_is_refused():
    assert (
        tiles.of_target("host") is None and tiles.of_target("host-asan") is None and tiles.of_target("sm_90a") is H200
    )
    with pytest.raises(ArgumentError, match="tiles.py has no sm_75"):
        tiles.of_target("sm_75")
    assert DENSE.choose(DENSE.typical, "bfloat16", H200)


@pytest.mark.parametrize(
    ("B", "T", "H", "N", "spread"),
    [
        (4, 4096, 32, 16, 1),
        (8, 2048, 32, 16, 1),
        (16, 1024, 32, 16, 0),  # a warp for each scheduler
        (32, 512, 32, 16, 0),
        (3, 63, 5, 16, 0),
        (3, 64, 5, 16, 1),
        (4, 4096, 20, 32, 0),  # measured: no gain
        (1, 4096, 1, 64, 0),
    ],
)
def test_few_small_states_are_spread_over_more_lanes(B, T, H, N, spread):
    sizes = {"B": B, "T": T, "H": H, "N": N}
    chosen = {"SPREAD": spread, "PACKED": 0}
    assert matrix(sizes, "bfloat16", H200) == chosen == matrix({**sizes, "M": N}, "float32", None)


def test_a_state_counts_with_its_width_and_a_device_with_its_multiprocessors():
    sizes = {"B": 8, "T": 2048, "H": 32, "N": 16}
    assert matrix(sizes, "bfloat16", DEVICES["sm_89"])["SPREAD"] == 1
    chosen = [matrix({**sizes, "H": 34}, "bfloat16", device)["SPREAD"] for device in (H200, DEVICES["sm_89"])]
    assert chosen == [0, 1]
    assert matrix({**sizes, "M": 48}, "bfloat16", H200)["SPREAD"] == 0


def test_what_is_built_ahead_is_the_usual_plan():
    assert matrix({**MATRIX.typical, "N": 16}, "bfloat16", H200) == dict.fromkeys(MATRIX.constants, 0)


def test_a_state_is_spread_only_where_lanes_of_four_elements_can_share_its_rows():
    """40 and 56 keys are 5 and 7 for each of the eight lanes of a row."""
    sizes = {"B": 3, "T": 64, "H": 5, "M": 8}
    assert [matrix({**sizes, "N": n}, "bfloat16", None)["SPREAD"] for n in (16, 24, 40, 48, 56)] == [1, 1, 0, 1, 0]


@pytest.mark.parametrize(
    ("B", "T", "H", "N", "M", "packed"),
    [
        (32, 512, 64, 8, 8, 1),
        (32, 512, 34, 8, 16, 1),
        (32, 512, 34, 16, 8, 1),
        (32, 512, 33, 8, 8, 0),  # eight to a multiprocessor, which has room for a warp of each
        (32, 512, 4, 8, 8, 0),
        (32, 512, 128, 16, 16, 0),  # a warp with eight elements a lane
        (32, 512, 128, 8, 24, 0),
        (32, 512, 128, 1, 96, 0),  # a diagonal, which has a kernel of its own
        (1, 63, 4, 8, 8, 1),  # a short sequence, as soon as a warp is full
        (1, 63, 3, 8, 8, 0),
        (1, 63, 2, 8, 16, 1),
        (3, 64, 5, 8, 8, 0),
    ],
)
def test_many_small_states_share_warps(B, T, H, N, M, packed):
    sizes = {"B": B, "T": T, "H": H, "N": N, "M": M}
    for dtype, device in (("bfloat16", H200), ("float64", None)):
        chosen = matrix(sizes, dtype, device)
        assert chosen["PACKED"] == packed and not (packed and chosen["SPREAD"])
    assert matrix({**sizes, "NUMBERS": 2}, "bfloat16", H200)["PACKED"] == 0
    assert matrix(sizes, "bfloat16", tiles.Device(1000, H200.shared_bytes))["PACKED"] == (packed and T < 64)
