"""Names of variants: collisions, the grammar as the registry reads it, and near misses."""

import pytest
from plugin_problems import problems

from elmanctl.errors import UserError
from elmanctl.plugins.registry import natural, registry


def test_two_plugins_of_one_name_are_a_problem_that_names_both(project):
    first = project.fake("aa", "ZZ1")
    project.fake("bb", "zz1")
    text = problems()["bb"].text
    assert "zz1 collides with ZZ1" in text and str(first) in text
    assert "ZZ1" in registry().variants() and "zz1" not in registry().variants()


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("ZZ1h4", ""),
        ("ZZ2", 'presets={"zz1": {}}'),
        ("ZZ2", 'aliases={"ZZ1fast": "ZZ2"}'),
        ("ZZ2", 'aliases={"ZZ1n8": "ZZ2"}'),
    ],
)
def test_heads_and_aliases_that_collide_are_a_problem(project, name, more):
    project.fake("aa", "ZZ1", 'presets={"ZZ1fast": {"n_heads": 2}}')
    project.fake("bb", name, more)
    assert "collides with ZZ1" in problems()["bb"].text
    assert set(registry().variants()) & {"ZZ1", name} == {"ZZ1"}


@pytest.fixture
def named(project):
    """Return the registry of a project with one variant that has an alias and a preset."""
    aliases = '"ZZ7h4": "ZZ7h4n16", "ZZ7old": "ZZ7h2:use_gate=true"'
    project.fake("zz7", "ZZ7", f'aliases={{{aliases}}}, presets={{"ZZ7g": {{"use_gate": True, "n_heads": 2}}}}')
    project.fake("zz8", "ZZ8")
    return registry()


@pytest.mark.parametrize(
    ("text", "options", "canonical"),
    [
        ("ZZ7", {}, "ZZ7h8n32"),
        ("zz7H4N8", {}, "ZZ7h4n8"),
        ("ZZ7n64", {}, "ZZ7h8n64"),
        ("ZZ7h04", {}, "ZZ7h4n32"),
        (" ZZ7h4 ", {}, "ZZ7h4n16"),
        ("zz7H4:USE_GATE=True", {}, "ZZ7h4n16:use_gate=true"),
        ("ZZ7h4n32", {}, "ZZ7h4n32"),
        ("ZZ7old", {}, "ZZ7h2n32:use_gate=true"),
        ("ZZ7g", {}, "ZZ7h2n32:use_gate=true"),
        ("ZZ7gn64", {}, "ZZ7h2n64:use_gate=true"),
        ("ZZ7", {"n_state": "16", "use_gate": True}, "ZZ7h8n16:use_gate=true"),
        ("ZZ7n16", {"n_state": 16}, "ZZ7h8n16"),
        ("ZZ7:n_state=16,use_gate=true", None, "ZZ7h8n16:use_gate=true"),
        ("ZZ7:use_gate=false", None, "ZZ7h8n32"),
    ],
)
def test_resolve_gives_the_canonical_form(named, text, options, canonical):
    spec = named.resolve(text, options)
    assert spec.name == canonical
    assert named.resolve(canonical) == spec


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("ZZ9", {}, r"Unknown variant ZZ9\. Close: ZZ[78], ZZ[78].* Run elmanctl list to see all \d+\."),
        ("ZZ7h4x", {}, r"Unknown variant ZZ7h4x\. Close: .*After ZZ7 may come h<n_heads> n<n_state>"),
        ("ZZ70", {}, r"Unknown variant ZZ70\. Close: ZZ7\b"),
        ("xZZ7", {}, "Unknown variant xZZ7"),
        ("ZZ7n4h4", {}, "Unknown variant ZZ7n4h4"),
        ("ZZ7h-4", {}, "Unknown variant ZZ7h-4"),
        ("ZZ7h4.5", {}, "Unknown variant"),
        ("", {}, "Unknown variant"),
        ("qqqqqqqqq", {}, r"Unknown variant qqqqqqqqq\. Run elmanctl list"),
        ("ZZ7n16", {"n_state": 32}, r"n_state=32 from the options contradicts n_state=16 from the name"),
        ("ZZ7n16:n_state=32", {}, r"n_state=32 from the name contradicts n_state=16"),
        (
            "ZZ7h4",
            {"n_state": 64},
            r"n_state=64 from the options contradicts n_state=16 from the alias ZZ7h4 = ZZ7h4n16",
        ),
        ("ZZ7gh4", {}, r"n_heads=4 from the name contradicts n_heads=2 from the preset"),
        ("ZZ7:gate=true", {}, r"ZZ7 has no option gate\. Close: use_gate\. Options: n_heads, n_state, use_gate"),
        ("ZZ7:use_gate", {}, "'use_gate' is not option=value"),
        ("ZZ7:", {}, "'' is not option=value"),
        ("ZZ7:use_gate=true,use_gate=true", {}, "given twice"),
        ("ZZ7", {"use_gate": "maybe"}, r"use_gate=maybe is not true or false. Default: false"),
        ("ZZ7", {"n_state": 16.5}, "n_state=16.5 is not a whole number"),
        ("ZZ7", {"n_state": True}, "n_state=True is not a whole number"),
    ],
)
def test_resolve_refuses(named, text, options, message):
    with pytest.raises(UserError, match=message):
        named.resolve(text, options)


def test_the_name_of_a_broken_variant_leads_to_its_error(project):
    project.write("variants/zz5/__init__.py", "raise ValueError('half written')\n")
    with pytest.raises(UserError, match=r"ZZ5 could not be loaded: ValueError: half written.*variants/zz5"):
        registry().resolve("ZZ5")


def test_resolve_does_not_apply_rules(project):
    more = 'rules=Rules(sizes={"n_state": Multiple(8, "bytes of a row")})'
    folder = project.fake("zz1", "ZZ1", more)
    init = folder / "__init__.py"
    init.write_text("from elmanctl.rules import Multiple, Rules\n" + init.read_text())
    spec = registry().resolve("ZZ1n20")
    with pytest.raises(
        UserError, match=r"ZZ1h8n20: n_state=20 is not a multiple of 8 \(bytes of a row.*Nearest: 16, 24"
    ):
        spec.check()


def test_natural_order():
    assert sorted(["E10", "E2", "fla", "E1", "e3"], key=natural) == ["E1", "E2", "e3", "E10", "fla"]
