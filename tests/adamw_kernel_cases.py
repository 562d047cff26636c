"""The kernels of AdamW against torch's own in fp64, on the device that is named: run by test_triton_kernels.py."""

import sys

import torch

from elmanctl import adamw_kernels, optim
from elmanctl.records import Training

DEVICE = torch.device(sys.argv[1])
SHAPES = ((40, 30), (30, 40), (7,), (7,), (1,), (0, 3), (5000,), (3, 2, 5)) + (
    ((1536, 1536),) * 3 if DEVICE.type == "cuda" else ()
)
optim.implementation = lambda device: "triton"
adamw_kernels.MOST = 2  # three matrices of one size are two launches


def model_of(shapes, dtype=torch.float32) -> torch.nn.ParameterList:
    torch.manual_seed(0)
    return torch.nn.ParameterList([torch.randn(*shape).to(DEVICE, dtype) for shape in shapes])


def gradients(model, step: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(step)
    for p in model:
        p.grad = (scale * torch.randn(*p.shape, generator=generator)).to(DEVICE, p.dtype)


def check(clip: float, decay: float, betas: tuple[float, float], lr: float = 0.01) -> None:
    """Five steps, of which some are clipped."""
    ours, exact = model_of(SHAPES), model_of(SHAPES, torch.float64)
    optimizer = optim.Optimizer(ours, Training(clip=clip, weight_decay=decay, betas=betas), DEVICE)
    optimizer.allocate()
    assert optimizer.route == "triton"
    optimizer.lr.fill_(lr)
    plain = torch.optim.AdamW(optim.decay_groups(exact, decay), lr=lr, betas=betas, foreach=False)
    for step in range(5):
        for model in (ours, exact):
            gradients(model, step, 10.0**-step)
        length = torch.nn.utils.clip_grad_norm_(exact.parameters(), clip if clip > 0 else 1e30)
        plain.step()
        loss, norm, halted = optimizer.step(torch.tensor(1.5 + step, device=DEVICE)).tolist()
        assert (loss, halted) == (1.5 + step, 0.0) and abs(norm / length.item() - 1) < 1e-6
    for p, q in zip(ours, exact, strict=True):
        assert (p - q).abs().max() < 3e-7 * (1 + q.abs().max()) if p.numel() else True, (p.shape, clip)
        if p.numel():
            state, truth = optimizer.adamw.state[p], plain.state[q]
            assert state["step"].item() == truth["step"].item() == 5
            for kind in ("exp_avg", "exp_avg_sq"):
                assert (state[kind] - truth[kind]).norm() <= 1e-6 * truth[kind].norm(), (kind, p.shape)


def check_halt(where: str, value: float) -> None:
    """From a step that is not finite on nothing moves, nor in a good step after it."""
    model = model_of(SHAPES)
    optimizer = optim.Optimizer(model, Training(), DEVICE)
    optimizer.allocate()
    optimizer.lr.fill_(0.01)
    gradients(model, 0, 1.0)
    assert optimizer.step(torch.ones((), device=DEVICE))[2] == 0
    held = [*model, *(t for state in optimizer.adamw.state.values() for t in state.values())]
    before = [t.detach().clone() for t in held]
    gradients(model, 1, 1.0)
    if where == "gradient":
        model[0].grad[0, 0] = value
    assert optimizer.step(torch.tensor(value if where == "loss" else 1.0, device=DEVICE))[2] == 1
    gradients(model, 2, 1.0)
    assert optimizer.step(torch.ones((), device=DEVICE))[2] == 1
    assert all(torch.equal(a, b) for a, b in zip(before, held, strict=True))


def check_without_gradient() -> None:
    """A weight that no gradient reached stays; one whose gradient lies otherwise in memory is refused."""
    model = model_of(((4, 3), (4, 3)))
    optimizer = optim.Optimizer(model, Training(), DEVICE)
    optimizer.allocate()
    optimizer.lr.fill_(0.01)
    before = [p.detach().clone() for p in model]
    model[0].grad = torch.ones_like(model[0])
    optimizer.step(torch.ones((), device=DEVICE))
    assert not torch.equal(before[0], model[0]) and torch.equal(before[1], model[1])
    model[0].grad = torch.ones(3, 4, device=DEVICE).T
    try:
        optimizer.step(torch.ones((), device=DEVICE))
    except ValueError as error:
        assert "do not lie alike" in str(error)
    else:
        raise AssertionError("a transposed gradient was taken for a plain one")


check(1.0, 0.1, (0.9, 0.95))
check(0.0, 0.0, (0.9, 0.999))
check_halt("loss", float("nan"))
check_halt("gradient", float("inf"))
check_halt("gradient", float("nan"))
check_without_gradient()
