"""Rules: what they accept, and the message when they do not."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elmanctl.errors import UserError
from elmanctl.rules import Multiple, OneOf, Range, Rules

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
