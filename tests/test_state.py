import pytest
import torch

from elmanctl.state import detach, flatten, map_tensors, reset_rows, unflatten


def example(scale: float):
    return [{"h": scale * torch.ones(3, 2), "tail": (scale * torch.ones(3, 1, 4),)}, {}, None]


def test_map_keeps_the_form_and_pairs_equal_places():
    summed = map_tensors(torch.add, example(1), example(2))
    assert summed[0]["h"].eq(3).all() and summed[0]["tail"][0].shape == (3, 1, 4) and summed[1:] == [{}, None]


def test_something_else_than_a_tensor_is_refused():
    with pytest.raises(TypeError, match="found float"):
        map_tensors(torch.neg, [{"h": 1.0}])


def test_reset_touches_only_the_masked_rows():
    state = reset_rows(example(1), example(0), torch.tensor([False, True, False]))
    assert state[0]["h"].tolist() == [[1, 1], [0, 0], [1, 1]]
    assert state[0]["tail"][0][:, 0, 0].tolist() == [1, 0, 1]


def test_detach_cuts_the_graph():
    state = map_tensors(lambda t: t.requires_grad_() * 2, example(1))
    assert state[0]["h"].requires_grad and not detach(state)[0]["h"].requires_grad


def test_flatten_and_unflatten_are_inverse():
    state = example(5)
    tensors = flatten(state)
    assert set(tensors) == {"state.0.h", "state.0.tail.0"}
    again = unflatten(example(0), tensors)
    assert again[0]["h"].equal(state[0]["h"]) and type(again[0]["tail"]) is tuple and again[1:] == [{}, None]
