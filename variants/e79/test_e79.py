"""What the contract tests cannot know of E79: its names and counts, its first steps from a zero state, and what the rules refuse."""

import pytest
import torch

from elmanctl.plugins.registry import registry
from elmanctl.testing import check_agreement, check_refusal, results

from .layer import Layer

N, D = 8, 32
# Options with what they add to the parameters at n=8, dim=32.
OPTIONS = {
    "": 0,
    "bias=none": -2 * N,
    "bias=projected": 2 * N * D - 2 * N,
    "expansion=2": D * D + 4 * N * D,
    "conv=true": 5 * D,
}


def made(options):
    torch.manual_seed(0)
    return Layer(D, registry().resolve(f"E79n{N}{':' if options else ''}{options}").config).double()


def steps(T):
    return torch.randn(2, T, D, dtype=torch.float64)


@pytest.mark.parametrize(
    ("name", "canonical"),
    [("E79", "E79n64"), ("E79nb", "E79n64:bias=none"), ("E79ibn32", "E79n32:bias=projected"), ("E79n16", "E79n16")],
)
def test_published_names(name, canonical):
    spec = registry().resolve(name)
    assert spec.name == canonical and registry().resolve(canonical) == spec
    spec.check()


@pytest.mark.parametrize("options", OPTIONS)
def test_counts(options):
    count = sum(p.numel() for p in made(options).parameters())
    assert count == D * D + 4 * N * D + N * D + 2 * N + OPTIONS[options]


@pytest.mark.parametrize("options", ["", "bias=none", "bias=projected"])
@pytest.mark.parametrize("T", [1, 2, 11])
def test_kernel_and_reference_agree_from_a_zero_state(options, T):
    check_agreement(made(options), steps(T))


@pytest.mark.parametrize("backend", ["reference", "host"])
def test_from_a_zero_state_the_gates_have_no_gradient_in_the_first_step_and_one_from_the_second_on(backend):
    """A gate that multiplies a zero state has none, which hid missing gradients from a test of one step."""
    first, second = (results(made(""), steps(T), backend) for T in (1, 2))
    for name in ("d_s_bias", "d_m_bias"):
        assert not first[name].any() and bool((second[name].abs() > 1e-9).all())
    # The projection's rows: q, k, v, m. The keys write from the first step on, M's own key into M only.
    of_keys = first["d_W"].view(4, N, D).abs().amax((1, 2))
    assert bool((of_keys > 1e-6).all())


def test_each_state_gates_the_other():
    """A first M that is not zero reaches S in one step through its gates alone; a first S reaches M."""
    layer = made("")
    x = torch.randn(1, 1, D, dtype=torch.float64)
    zero = layer.initial_state(1, "cpu", torch.float64)
    drawn = {name: torch.randn_like(t) for name, t in zero.items()}
    _, plain = layer(x, {"s": drawn["s"], "m": zero["m"]})
    _, gated = layer(x, drawn)
    assert not torch.allclose(plain["s"], gated["s"])
    _, moved = layer(x, {"s": zero["s"], "m": drawn["m"]})
    assert not torch.allclose(gated["m"], moved["m"])


@pytest.mark.parametrize(
    ("name", "dim", "texts"),
    [
        ("E79n20", None, ("n_state=20 is not a multiple of 8", "Nearest: 16, 24.")),
        ("E79n96", None, ("n_state=96", "two states", "Nearest: 64.")),
        ("E79:expansion=1.3", 128, ("width 166", "not a multiple of 16")),
    ],
)
def test_rules_name_the_value_the_reason_and_the_way_out(name, dim, texts):
    check_refusal(name, dim, texts)


def test_initialisation():
    torch.manual_seed(0)
    layer = Layer(128, registry().resolve("E79n32").config)
    bound = (6 / (128 + 32)) ** 0.5
    assert 0.97 * bound < float(layer.W.detach().abs().max()) <= bound
    assert bool((layer.s_bias == 2.0).all()) and bool((layer.m_bias == 2.5).all())
