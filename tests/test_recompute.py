"""Layer checkpointing and loss chunking: what is kept changes, what is computed does not."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from elmanctl import ops, train
from elmanctl.errors import UserError
from elmanctl.model import LadderLM
from elmanctl.plugins.registry import registry
from elmanctl.recompute import chunked_loss
from elmanctl.records import read_steps

EPS = 2.0**-24  # half a unit of fp32
DEPTH = 3


def build(name: str, **options) -> LadderLM:
    torch.manual_seed(0)
    return LadderLM(registry().resolve(name), 32, DEPTH, **options)


def tokens(rows=2, length=9):
    return torch.randint(0, 256, (rows, length), generator=torch.Generator().manual_seed(1))


def step(model, state=None):
    """Return loss, last state, gradients and buffers of one pass in each direction, from the same random numbers."""
    torch.manual_seed(7)
    loss, last = model.loss(tokens(), state)
    loss.backward()
    return loss.detach(), last, [p.grad for p in model.parameters()], [b.clone() for b in model.buffers()]


def equal(a, b) -> bool:
    return len(a) == len(b) and all(x.equal(y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("name", ["Toy:dropout=0.3", "E42", "E88h2n8", "gru", "llama"])
@pytest.mark.parametrize("layers", [1, DEPTH])
def test_checkpointed_layers_give_the_same_loss_gradients_and_buffers_bit_for_bit(trainee, name, layers):
    """Dropout draws the same numbers again, and a spectral norm's vector moves once a step."""
    plain, thrifty = build(name), build(name, checkpoint_layers=layers)
    for _ in range(2):  # the second step starts from buffers that the first has moved
        a, b = step(plain), step(thrifty)
    assert a[0].equal(b[0]) and equal(a[2], b[2]) and equal(a[3], b[3])


def test_a_kernel_s_pass_is_run_again_too():
    """Through the op that serves every kernel, on the host backend."""
    with ops.using("host"):
        plain, thrifty = step(build("E42")), step(build("E42", checkpoint_layers=DEPTH))
    assert plain[0].equal(thrifty[0]) and equal(plain[2], thrifty[2]) and equal(plain[3], thrifty[3])


def test_the_layers_that_are_asked_for_run_twice_and_keep_less(trainee):
    def kept(**options) -> tuple[int, list[int]]:
        model, calls, size = build("Toy", **options), [], 0
        for number, layer in enumerate(model.layers):
            layer.register_forward_pre_hook(lambda *_, number=number: calls.append(number))

        def pack(tensor):
            nonlocal size
            size += tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            loss, _ = model.loss(tokens())
        loss.backward()
        return size, calls

    (plain, once), (some, twice), (all_of_them, _) = (kept(), kept(checkpoint_layers=2), kept(checkpoint_layers=DEPTH))
    assert once == [0, 1, 2] and twice == [0, 1, 2, 1, 0], "the backward pass comes to the last of them first"
    assert plain > some > all_of_them


def test_evaluation_runs_every_layer_once(trainee):
    model = build("Toy", checkpoint_layers=DEPTH)
    with torch.no_grad():
        model.loss(tokens())
    assert [int(layer.calls) for layer in model.layers] == [1] * DEPTH


def test_gradients_reach_a_state_that_is_carried_into_checkpointed_layers(trainee):
    found = []
    for layers in (0, DEPTH):
        model = build("Toy", checkpoint_layers=layers)
        state = [{"h": torch.full((2, 32), 0.5, requires_grad=True)} for _ in range(DEPTH)]
        _, last, _, _ = step(model, state)
        found.append([s["h"].grad for s in state] + [s["h"].detach() for s in last])
    assert equal(*found) and all(g.abs().max() > 0 for g in found[0])


def test_more_layers_than_there_are_is_refused():
    with (
        pytest.raises(UserError, match="checkpoint_layers is 4, but the model has 3 layers. Give 3"),
        torch.device("meta"),
    ):
        build("gru", checkpoint_layers=4)


def test_both_sublayers_of_a_layer_are_checkpointed(trainee):
    with torch.device("meta"):
        model = build("llama", checkpoint_layers=2)
    assert (model.recomputed, len(model.layers)) == (4, 6)


@pytest.mark.parametrize("chunks", [2, 5, 1000])
def test_a_loss_in_chunks_is_the_loss_and_has_its_gradients(chunks):
    """Sums of the same fp32 terms in another order: over N positions, or over V logits, or D columns."""
    N, V, D = 33, 256, 24
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(n, D, generator=generator, requires_grad=True) for n in (N, V))
    targets = torch.randint(0, V, (N,), generator=generator)
    expected = F.cross_entropy(F.linear(x, weight), targets)
    loss = chunked_loss(x, weight, targets, chunks)
    assert abs(loss - expected) <= N * EPS * expected
    for ours, theirs, terms in zip(
        torch.autograd.grad(loss, (x, weight)), torch.autograd.grad(expected, (x, weight)), (V, N), strict=True
    ):
        assert (ours - theirs).abs().max() <= 2 * terms * EPS * theirs.abs().max()


def test_logits_of_no_more_than_one_chunk_exist_at_a_time(monkeypatch):
    seen, linear = [], F.linear
    monkeypatch.setattr(F, "linear", lambda *args: seen.append(len(args[0])) or linear(*args))
    x, weight = torch.randn(33, 8, requires_grad=True), torch.randn(256, 8)
    chunked_loss(x, weight, torch.zeros(33, dtype=torch.int64), 4).backward()
    assert seen == [9, 9, 9, 6, 6, 9, 9, 9], "each part once forward and once backward"


def test_in_bf16_the_weight_s_gradient_is_summed_over_chunks_in_fp32():
    """Sixteen parts, each the gradient of 1: bf16 sums would stop growing in steps below their last bit."""
    x, weight = torch.randn(512, 16).bfloat16(), (0.1 * torch.randn(256, 16)).requires_grad_()
    targets = torch.randint(0, 256, (512,))
    exact = torch.autograd.grad(F.cross_entropy(F.linear(x.double(), weight.double()), targets), weight)[0]
    with torch.autocast("cpu", torch.bfloat16):
        got = [torch.autograd.grad(chunked_loss(x, weight, targets, n), weight)[0] for n in (1, 128)]
    errors = [(g - exact).norm() / exact.norm() for g in got]
    assert got[1].dtype == torch.float32 and errors[1] < 1.2 * errors[0] + 2**-9


@pytest.mark.parametrize(
    "option", [{"checkpoint_layers": 2}, {"loss_chunks": 3}, {"checkpoint_layers": 1, "loss_chunks": 2}]
)
def test_a_run_follows_the_same_curve_and_its_record_has_the_option(trainee, option):
    train.run(trainee.trial("Toy:dropout=0.2"), Path("plain"))
    result = train.run(trainee.trial("Toy:dropout=0.2", **option), Path("thrifty"))
    a, b = (read_steps(Path(name) / "steps.jsonl") for name in ("plain", "thrifty"))
    assert result.status == "ok" and len(a) == 6
    if "loss_chunks" not in option:
        assert [s.loss for s in a] == [s.loss for s in b] and [s.grad_norm for s in a] == [s.grad_norm for s in b]
    # 64 terms in another order, and what that does to the weights in six steps.
    assert [s.loss for s in b] == pytest.approx([s.loss for s in a], rel=64 * EPS * 6)
