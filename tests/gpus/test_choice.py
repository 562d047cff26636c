"""What --gpus may say."""

import pytest

from elmanctl import gpus
from elmanctl.errors import UserError
from elmanctl.gpus import choice, free


@pytest.fixture
def seen(box):
    return gpus.gpus()


def numbers(pool):
    return [int(uuid.removeprefix("GPU-")) for uuid in pool.uuids]


@pytest.mark.parametrize(
    ("text", "expected", "most"),
    [
        ("0-5", [0, 1, 2, 3, 4, 5], None),
        ("0,2,4", [0, 2, 4], None),
        ("5-7,0,6", [5, 6, 7, 0], None),
        ("all", list(range(8)), None),
        ("-3", [0, 1, 2, 4, 5, 6, 7], None),
        ("-3,-5-7", [0, 1, 2, 4], None),
        ("0-5,-3", [0, 1, 2, 4, 5], None),
        ("GPU-2, gpu-7", [2, 7], None),
        ("any:4", list(range(8)), 4),
        ("any:2,4-7", [4, 5, 6, 7], 2),
        ("any:1,-0", [1, 2, 3, 4, 5, 6, 7], 1),
    ],
)
def test_each_form_names_gpus_in_order_and_once(seen, text, expected, most):
    pool = choice.parse(text, seen)
    assert (numbers(pool), pool.most) == (expected, most)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("9", "there is no GPU 9; this machine has GPUs 0 to 7"),
        ("0-9", "there is no GPU 9"),
        ("-8", "there is no GPU 8"),
        ("5-0", "5-0 runs backwards. Try 0-5"),
        ("", "cannot read ''"),
        ("a", "cannot read 'a'"),
        ("0,,2", "cannot read ''"),
        ("any", "cannot read 'any'"),
        ("any:0", "wants 0 GPUs"),
        ("any:9", "wants 9 GPUs; this machine has GPUs 0 to 7"),
        ("0,-0", "leaves no GPU"),
        ("any:3,1-2", "leaves 2 GPU"),
        ("GPU-9", "is the UUID of no GPU here"),
        ("GPU-", "cannot read 'GPU-'"),
    ],
)
def test_a_text_that_names_no_gpus_is_refused(seen, text, says):
    with pytest.raises(UserError) as error:
        choice.parse(text, seen)
    assert says in str(error.value)


def test_the_start_of_a_uuid_has_to_fit_one_gpu(box):
    box.only({"uuid": "GPU-aa1"}, {"uuid": "GPU-aa2"}, {"uuid": "GPU-b"})
    seen = gpus.gpus()
    assert choice.parse("gpu-b", seen).uuids == ("GPU-b",)
    with pytest.raises(UserError, match="GPU-a begins the UUIDs of 2 GPUs"):
        choice.parse("GPU-a", seen)


def select(text, wait=False):
    sampler = free.Sampler().settle()
    return choice.select(text, sampler.box, sampler.reasons, wait)


def test_without_a_choice_every_free_gpu_is_taken(box):
    assert numbers(select(None)) == [0, 2, 5, 6, 7]


def test_a_busy_choice_is_refused_with_the_reason_and_the_free_ones(box):
    with pytest.raises(UserError) as error:
        select("0-2")
    assert "GPU 1 is in use by another process (pid 4000001; 41 GiB)." in str(error.value)
    assert "Choose with --gpus 0,2,5,6,7, or let trials wait with --wait." in str(error.value)
    with pytest.raises(UserError, match="GPU 1 is in use(.|\n)*GPU 3 is holding(.|\n)*GPU 4 is 87 %"):
        select("all")


def test_busy_gpus_are_waited_for_on_request_and_by_any(box):
    assert numbers(select("0-2", wait=True)) == [0, 1, 2]
    assert select("any:6").most == 6


def test_none_free_lists_every_reason(box):
    box.only(box.devices[1], box.devices[3])
    with pytest.raises(UserError, match="No GPU is free.\nGPU 0 is in use(.|\n)*GPU 1 is holding(.|\n)*--wait"):
        select(None)


def test_no_gpu_at_all_points_to_what_runs_without():
    with pytest.raises(UserError, match="bench smoke"):
        choice.select("0", [], lambda uuid: [])


@pytest.mark.parametrize(
    ("text", "count"), [("0-5", 6), ("7,-3", 8), ("any:64", 64), ("63", 64), ("all", 1), ("GPU-12345678-9", 1)]
)
def test_a_plan_for_another_machine_assumes_as_many_gpus_as_are_named(text, count):
    assert len(choice.assumed(text, (9, 0))) == count


@pytest.mark.parametrize("text", ["0-99999999", "64", "any:65", "0,-64"])
def test_and_says_how_many_it_assumes_at_most(text):
    with pytest.raises(UserError, match=f"--gpus {text}: a plan for another machine takes up to 64 GPUs, 0 to 63"):
        choice.assumed(text, (9, 0))
