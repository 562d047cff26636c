"""The declaration of a variant: its grammar, its options, and what is refused at once."""

import sys
from dataclasses import dataclass, field
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elmanctl.errors import UserError
from elmanctl.rules import Multiple, Rules
from elmanctl.variant import Spec, Variant, option, parse_options, tagged


@dataclass(frozen=True)
class Config:
    n_heads: int = tagged("h", 8, "heads")
    n_state: int = tagged("n", 32, "state")
    use_gate: bool = option(False, "gate")
    rate: float = option(0.5, "a rate")
    decay: str = option("mamba", "kind of decay", ("mamba", "simple"))
    extra: int = option(0, "more")


def make(**more) -> Variant:
    return Variant(**{"package": "nowhere", "name": "ZZ7", "summary": "", "config": Config, **more})


def parse(variant: Variant, text: str) -> Config:
    base, colon, rest = text.partition(":")
    pinned, tags = variant.match(base)
    inline = parse_options(rest.split(",") if colon else ())
    return variant.configure(text, ("the preset", pinned), ("the name", tags), ("the name", inline))


configs = st.builds(
    Config,
    n_heads=st.integers(0, 10**9),
    n_state=st.integers(0, 10**9),
    use_gate=st.booleans(),
    rate=st.floats(allow_nan=False),
    decay=st.sampled_from(["mamba", "simple"]),
    extra=st.integers(-(10**9), 10**9),
)


@given(configs)
def test_parse_undoes_format(config):
    variant = make()
    assert parse(variant, variant.format(config)) == config
    assert parse(variant, variant.format(config).upper()) == config


def test_canonical_form_spells_every_tag_and_what_differs():
    variant = make()
    assert variant.format(Config()) == "ZZ7h8n32"
    assert variant.format(Config(use_gate=True, decay="simple")) == "ZZ7h8n32:use_gate=true,decay=simple"


@pytest.mark.parametrize(
    "text", ["ZZ7h4x", "ZZ70", "ZZ", "xZZ7", "ZZ7n4h4", "ZZ7h", "ZZ7h4h4", "ZZ7 h4", "ZZ7h4\n", "ZZ7h٤"]
)
def test_only_the_whole_name_matches(text):
    assert make().match(text) is None


def test_the_longest_head_wins():
    variant = make(presets={"ZZ7h4": {"use_gate": True}})
    assert variant.match("zz7h4") == ({"use_gate": True}, {})
    assert variant.match("ZZ7h4n8") == ({"use_gate": True}, {"n_state": "8"})
    assert variant.match("ZZ7h5") == ({}, {"n_heads": "5"})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"gate": True}, r"ZZ7 has no option gate\. Close: .*use_gate"),
        ({"use_gate": "yes"}, "use_gate=yes is not true or false"),
        ({"n_heads": "four"}, "n_heads=four is not a whole number. Default: 8"),
        ({"n_heads": 4.0}, "n_heads=4.0 is not a whole number"),
        ({"n_heads": 2**31}, "n_heads=2147483648 is more than 2147483647"),
        ({"n_heads": "9" * 5000}, "9 is not a whole number"),
        ({"n_heads": None}, "n_heads=None is not a whole number"),
        ({"rate": "nan"}, "rate=nan is not a number"),
        ({"rate": "fast"}, "rate=fast is not a number"),
        ({"decay": "exp"}, "decay=exp is not one of mamba, simple"),
        ({"decay": "a,b=c"}, "is not a word"),
    ],
)
def test_a_bad_value_is_refused(given, message):
    with pytest.raises(UserError, match=message):
        make().configure("ZZ7", ("the options", given))


def test_values_convert_to_the_type_of_their_default():
    config = make().configure("ZZ7", ("x", {"USE_GATE": "TRUE", "rate": "1e-3", "decay": "Simple", "extra": " 7 "}))
    assert config == Config(use_gate=True, rate=1e-3, decay="simple", extra=7)
    assert type(make().configure("ZZ7", ("x", {"rate": 1})).rate) is float


def test_sources_that_agree_are_one_and_others_are_named():
    variant = make()
    assert variant.configure("Z", ("a", {"n_heads": "4"}), ("b", {"n_heads": 4})).n_heads == 4
    with pytest.raises(UserError, match=r"Z: use_gate=false from b contradicts use_gate=true from a\. Give it once"):
        variant.configure("Z", ("a", {"use_gate": True}), ("b", {"use_gate": "false"}))
    with pytest.raises(UserError, match=r"from the preset\. Start from ZZ7 and give the options that you want\."):
        variant.configure("Z", ("the preset", {"use_gate": True}), ("the name", {"use_gate": "false"}))


def test_parse_options_reports_what_it_cannot_read():
    assert parse_options(["a=1", " b = x=y "]) == {"a": "1", "b": "x=y"}
    for pairs, message in ((["a"], "is not option=value"), (["=1"], "is not option=value"), (["a=1", "a=1"], "twice")):
        with pytest.raises(UserError, match=message):
            parse_options(pairs)


class Melting:
    pass


@dataclass
class Thawed:
    n: int = 3


@dataclass(frozen=True)
class Untyped:
    n: list = field(default_factory=list)


@dataclass(frozen=True)
class Required:
    n: int


@dataclass(frozen=True)
class SameTags:
    a: int = tagged("n", 1)
    b: int = tagged("N", 1)


@dataclass(frozen=True)
class DigitTag:
    a: int = tagged("n2", 1)


@dataclass(frozen=True)
class BadDefault:
    a: str = option("x", "", ("y", "z"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"config": Melting}, "not a frozen dataclass"),
        ({"config": Thawed}, "not a frozen dataclass"),
        ({"config": Untyped}, "option n needs a default"),
        ({"config": Required}, "option n needs a default"),
        ({"config": SameTags}, "differ from each other"),
        ({"config": DigitTag}, "must be letters"),
        ({"config": BadDefault}, "not among its choices"),
        ({"name": "7ZZ"}, "is no name"),
        ({"name": "ZZ 7"}, "is no name"),
        ({"presets": {"ZZ7:x": {}}}, "is no name"),
        ({"presets": {"ZZ7f": {"gate": True}}}, "preset ZZ7f pins gate, which ZZ7 does not have"),
        ({"rules": Rules(sizes={"width": Multiple(8, "why")})}, "rules name width, which ZZ7 does not have"),
        ({"requires": ("torch",)}, "does not say how to install"),
    ],
)
def test_a_declaration_that_cannot_work_is_refused_at_once(more, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make(**more)


def test_rules_on_dim_are_allowed():
    assert make(rules=Rules(sizes={"dim": Multiple(16, "why"), "n_state": Multiple(8, "why")})).rules.of("dim")


def test_missing_looks_up_without_importing():
    variant = make(requires=("torch", "no_such_package", "no_such_package.sub"), install="pip install it")
    assert variant.missing() == ["no_such_package", "no_such_package.sub"]
    with pytest.raises(UserError, match=r"ZZ7h8n32 needs no_such_package.*Install: pip install it"):
        Spec(variant, Config()).layers(16)


def test_kind_says_what_runs(tmp_path, monkeypatch):
    module = ModuleType("zz_variant")
    module.__file__ = str(tmp_path / "__init__.py")
    monkeypatch.setitem(sys.modules, "zz_variant", module)
    spec = Spec(make(package="zz_variant"), Config())
    assert (spec.kind("cpu"), spec.kind("cuda"), spec.variant.kernel()) == ("library", "library", None)
    (tmp_path / "binding.py").write_text("")
    assert (spec.kind("cpu"), spec.kind("cuda")) == ("reference", "kernel")


def test_a_spec_can_be_a_key():
    assert {Spec(make(), Config()): 1}[Spec(make(), Config())] == 1
    assert Spec(make(), Config()) != Spec(make(), Config(extra=1))
