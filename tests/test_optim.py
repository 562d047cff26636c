import pytest
import torch
from torch import nn

from elmanctl.optim import Optimizer, Schedule, decay_groups
from elmanctl.records import Budget, Training

CPU = torch.device("cpu")


class Model(nn.Module):
    no_decay = frozenset({"rate"})

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.rate, self.norm = nn.Linear(4, 4), nn.Parameter(torch.ones(2, 2)), nn.RMSNorm(4)

    def forward(self, x):
        return self.norm(self.linear(x)).sin().mean() * self.rate.sum()


def test_matrices_decay_and_biases_norms_and_named_parameters_do_not():
    model = nn.Sequential(Model())
    decay, keep = decay_groups(model, 0.5)
    assert [p.shape for p in decay["params"]] == [(4, 4)] and decay["weight_decay"] == 0.5
    assert {p.shape for p in keep["params"]} == {(4,), (2, 2)} and keep["weight_decay"] == 0


def test_a_misspelled_no_decay_name_is_an_error(monkeypatch):
    monkeypatch.setattr(Model, "no_decay", frozenset({"rat"}))
    with pytest.raises(ValueError, match="no_decay names rat"):
        decay_groups(Model(), 0.1)


def run(model, x, steps, **training):
    optimizer = Optimizer(model, Training(**training), CPU)
    optimizer.allocate()
    outcomes = []
    for _ in range(steps):
        optimizer.adamw.zero_grad()
        optimizer.lr.fill_(0.01)
        loss = model(x)
        loss.backward()
        outcomes.append(optimizer.step(loss).tolist())
    return optimizer, outcomes


def test_steps_are_those_of_torch_s_plain_adamw_with_clipping():
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    ours, theirs = Model(), Model()
    _, outcomes = run(ours, x, 5, clip=0.5, weight_decay=0.1)
    plain = torch.optim.AdamW(decay_groups(theirs, 0.1), lr=0.01, betas=(0.9, 0.95), fused=False, foreach=False)
    for loss_before, norm_before, _ in outcomes:
        plain.zero_grad()
        loss = theirs(x)
        loss.backward()
        assert nn.utils.clip_grad_norm_(theirs.parameters(), 0.5).item() == pytest.approx(norm_before, rel=1e-5)
        assert loss.item() == pytest.approx(loss_before, rel=1e-5)
        plain.step()
    assert max(norm for _, norm, _ in outcomes) > 0.5, "some gradient is clipped"
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-7)


def test_without_clipping_the_norm_is_recorded_and_the_gradient_kept():
    model, x = Model(), torch.ones(3, 4)
    _, outcomes = run(model, x, 1, clip=0.0)
    norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm().item()
    assert outcomes[0][1] == pytest.approx(norm, rel=1e-5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_either_of_loss_and_gradient_halts(where, bad):
    model, x = Model(), torch.ones(3, 4)
    optimizer, _ = run(model, x, 1)
    loss = model(x)
    loss.backward()
    if where == "gradient":
        model.rate.grad[0, 0] = bad
    assert optimizer.step(torch.tensor(bad) if where == "loss" else loss).tolist()[2] == 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_and_state_stay_from_the_first_non_finite_step_on(bad):
    model, x = Model(), torch.ones(3, 4)
    optimizer, _ = run(model, x, 2)
    before = {name: t.clone() for name, t in (*model.named_parameters(), *optimizer.tensors(model).items())}
    for value in (bad, 1.0):  # the good batch after it must not train either
        optimizer.adamw.zero_grad()
        loss = model(x * value)
        loss.backward()
        assert optimizer.step(loss)[2] == 1
    after = dict((*model.named_parameters(), *optimizer.tensors(model).items()))
    assert all(after[name].equal(tensor) for name, tensor in before.items())


def rates(steps, **settings):
    schedule = Schedule(Training(lr=1.0, batch=2, chunk=8, **settings), Budget(steps=steps))
    return [schedule.rate(i, 0.0) for i in range(steps)]


@pytest.mark.parametrize(("steps", "warmup"), [(200, 10), (40_000, 1000)])
def test_warm_up_is_the_smaller_of_1000_steps_and_5_percent(steps, warmup):
    lr = rates(steps)
    assert lr[:warmup] == pytest.approx([(i + 1) / warmup for i in range(warmup)])
    assert max(lr) == 1.0 and all(a >= b for a, b in zip(lr[warmup:], lr[warmup + 1 :], strict=False))
    middle = (warmup + steps) // 2
    assert lr[middle] == pytest.approx(0.55, abs=0.01)  # half way down the cosine from 1 to 0.1
    assert lr[-1] == pytest.approx(0.1, abs=0.01)


def test_no_warm_up_starts_at_the_peak_and_constant_stays_there():
    assert rates(10, warmup_steps=0)[0] == rates(10, warmup_share=0.0)[0] == 1.0
    assert set(rates(50, schedule="constant")[3:]) == {1.0}


def test_a_token_budget_is_the_steps_that_reach_it():
    training = Training(lr=1.0, batch=2, chunk=8)
    assert Schedule(training, Budget(tokens=161)).total_steps == 11


def test_minutes_follow_the_clock():
    schedule = Schedule(Training(lr=1.0), Budget(minutes=10))
    assert schedule.rate(0, 0.0) == pytest.approx(0.001)
    assert schedule.rate(5, 15.0) == pytest.approx(0.5)  # 5 % of ten minutes is 30 s
    assert schedule.rate(9, 30.0) == 1.0
    assert schedule.rate(50, 315.0) == pytest.approx(0.55)
    assert schedule.rate(99, 600.0) == schedule.rate(100, 700.0) == pytest.approx(0.1)
