"""Rules: what they accept, and the message when they do not."""

import importlib
import math
import re
from types import SimpleNamespace
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elmanctl.errors import UserError
from elmanctl.plugins.registry import registry
from elmanctl.rules import Multiple, OneOf, Range, Rules
from elmanctl.toolchain import csrc_folder
from elmanctl.verify.hashes import family

ROW = Multiple(8, "one 16-byte row of bf16")
METHOD = Multiple(128, "one alignment for all", method=True)


@given(st.integers(1, 10**6), st.integers(1, 4096))
def test_nearest_multiples_are_legal_and_enclose(value, step):
    rule = Multiple(step, "why")
    near = rule.nearest(value)
    assert near and all(rule.accepts(n) for n in near)
    if rule.accepts(value):
        assert value in near
    else:
        assert max(near) > value and max(near) - value < step


@pytest.mark.parametrize("value", [0, -8, 4, 20])
def test_multiple_refuses(value):
    assert not ROW.accepts(value)


@pytest.mark.parametrize(
    ("rule", "good", "bad", "near"),
    [
        (OneOf((16, 32, 64), "w"), 32, 40, [32, 64]),
        (OneOf((16, 32), "w"), 16, 8, [16]),
        (OneOf((16, 32), "w"), 16, 99, [32]),
        (OneOf(("silu", "tanh"), "w"), "silu", "relu", ["silu", "tanh"]),
        (Range(1, 4, "w"), 4, 5, [4]),
        (Range(1, 4, "w"), 1, 0, [1]),
        (Range(1, None, "w"), 10**9, 0, [1]),
        (Range(None, 4, "w"), -5, 5, [4]),
    ],
)
def test_other_rules(rule, good, bad, near):
    assert rule.accepts(good) and not rule.accepts(bad)
    assert rule.nearest(bad) == near


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (ROW, "a multiple of 8"),
        (OneOf((1, 2), "w"), "one of 1, 2"),
        (Range(1, None, "w"), "at least 1"),
        (Range(None, 2, "w"), "at most 2"),
        (Range(1, 2, "w"), "between 1 and 2"),
    ],
)
def test_texts(rule, text):
    assert rule.text() == text


RULES = Rules(sizes={"n_state": ROW, "dim": (Multiple(16, "tiles"), METHOD)})


def test_the_message_has_value_rule_reason_and_nearest():
    with pytest.raises(UserError) as caught:
        RULES.check("ZZ7h4n20", SimpleNamespace(n_state=20))
    assert str(caught.value) == (
        "ZZ7h4n20: n_state=20 is not a multiple of 8 (one 16-byte row of bf16; the kernel needs it). Nearest: 16, 24."
    )


def test_a_dim_is_checked_once_it_is_known():
    RULES.check("ZZ7", SimpleNamespace(n_state=8))
    RULES.check("ZZ7", SimpleNamespace(n_state=8), dim=256)
    with pytest.raises(
        UserError, match=r"dim=100 is not a multiple of 16 \(tiles; the kernel needs it\)\. Nearest: 96, 112"
    ):
        RULES.check("ZZ7", SimpleNamespace(n_state=8), dim=100)


def test_only_method_rules_can_be_relaxed_and_by_name():
    fine = SimpleNamespace(n_state=8)
    with pytest.raises(UserError, match="the method asks for it"):
        RULES.check("ZZ7", fine, dim=160)
    RULES.check("ZZ7", fine, dim=160, relaxed=("dim",))
    with pytest.raises(UserError, match="the method asks for it"):
        RULES.check("ZZ7", fine, dim=160, relaxed=("n_state",))
    with pytest.raises(UserError, match="the kernel needs it"):
        RULES.check("ZZ7", fine, dim=100, relaxed=("dim",))


def test_combinations_see_options_and_dim():
    def clash(config, dim):
        return "gate=true with linear=true" if config.gate and config.linear and dim != 64 else None

    rules = Rules(combinations=(("the gate needs a bounded state", clash),))
    rules.check("ZZ7", SimpleNamespace(gate=True, linear=False))
    rules.check("ZZ7", SimpleNamespace(gate=True, linear=True), dim=64)
    with pytest.raises(UserError, match=r"ZZ7: gate=true with linear=true \(the gate needs a bounded state\)\."):
        rules.check("ZZ7", SimpleNamespace(gate=True, linear=True))


@pytest.mark.parametrize(
    "call",
    [
        "dims {name}",
        "dims {name} --dim 256",
        "build {name}",
        "train {name} --dim 256 --steps 1",
        "verify {name} --device cpu",
        "suites suites/mine.yaml",
        "bench suites/mine.yaml --dry-run",
    ],
)
def test_one_rule_serves_every_verb(project, call):
    """Each refuses what the variant's own rule refuses, with its reason, and nothing else knows which sizes are legal."""
    variant, name = registry().resolve("E88").variant, "E88h8n24"
    project.write("suites/mine.yaml", f"description: d\nparams: 1M\nrows: [{{model: {name}}}]\n")
    registry().resolve(name).check()
    with mock.patch.dict(variant.rules.sizes, {"n_state": Multiple(32, "a reason of this test")}):
        ran = project.run(*call.format(name=name).split())
    assert ran.code == 2
    assert "n_state=24 is not a multiple of 32 (a reason of this test; the kernel needs it). Nearest: 32." in " ".join(
        ran.err.split()
    )


def test_sizes_of_states_in_rules_are_those_that_the_family_compiles():
    text = (csrc_folder() / "elman" / "families" / "matrix_state" / "tile.cuh").read_text()
    step, side, elements = re.search(
        r"N % (\d+) == 0 && M % \1 == 0 && N <= (\d+) && N \* M <= (\d+ \* \d+)", text
    ).groups()
    found = [v for v in registry().variants().values() if v.has_kernel and "matrix_state.cuh" in family(v)]
    listed = {v.name: r.values for v in found for r in v.rules.of("n_state") if isinstance(r, OneOf)}
    assert len(listed) > 3
    for name, sizes in listed.items():
        assert all(n % int(step) == 0 for n in sizes) and max(sizes) <= int(side), name
    e88 = importlib.import_module(registry().resolve("E88").variant.package)
    assert math.prod(map(int, elements.split("*"))) == e88.STATE_LIMIT
