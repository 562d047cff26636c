"""The contract that every variant's declaration keeps, over whatever the registry holds and over the template: names, rules, README, files."""

import dataclasses
import re

from every_variant import broken, each, flips

from elmanctl.plugins.registry import registry
from elmanctl.rules import Rule
from elmanctl.variant import Spec

SECTIONS = [
    "equations",
    "shapes",
    "options",
    "initialisation",
    "saved for backward",
    "rules",
    "deviations",
    "provenance",
]


@each
def test_name_round_trip(variant):
    known = registry()
    for config in flips(variant):
        text = variant.format(config)
        pinned, tags = variant.match(text.partition(":")[0])
        assert pinned == {}
        inline = dict(pair.split("=") for pair in text.partition(":")[2].split(",") if pair)
        assert variant.configure(text, ("the name", tags), ("the name", inline)) == config
        if variant.name in known.variants():
            assert known.resolve(text) == known.resolve(text.upper()) == Spec(variant, config)


@each
def test_aliases_and_presets_resolve_to_allowed_configurations(variant):
    known = registry()
    if variant.name not in known.variants():
        assert not variant.aliases and not variant.presets, "the template shows neither"
        return
    for name in (*variant.heads(), *variant.aliases):
        spec = known.resolve(name)
        assert spec.variant == variant
        assert known.resolve(spec.name) == spec
        assert not broken(spec), name
    for target in variant.aliases.values():
        assert target.startswith(variant.name)


@each
def test_every_rule_and_option_has_its_reason(variant):
    for name in variant.rules.sizes:
        for rule in variant.rules.of(name):
            assert isinstance(rule, Rule) and len(rule.why) > 5
    for why, clash in variant.rules.combinations:
        assert len(why) > 5 and clash(variant.config(), None) is None
    for f in dataclasses.fields(variant.config):
        assert f.metadata["help"], f.name
    assert any(rule.method for rule in variant.rules.of("dim")) and any(
        not rule.method for rule in variant.rules.of("dim")
    )
    assert not broken(Spec(variant, variant.config()))
    assert 0 < len(variant.summary) <= 100


@each
def test_readme(variant):
    text = (variant.folder / "README.md").read_text()
    assert re.match(r"# \S", text)
    titles = [title.strip().lower() for title in re.findall(r"^## (.*)$", text, re.MULTILINE)]
    assert [title for title in titles if title in SECTIONS] == SECTIONS
    bodies = dict(zip(titles, re.split(r"^## .*$", text, flags=re.MULTILINE)[1:], strict=True))
    assert all(bodies[title].strip() for title in SECTIONS)
    for f in dataclasses.fields(variant.config):
        assert f"`{f.name}`" in bodies["options"], f"{f.name} is not among the options of the README"


@each
def test_a_baseline_names_its_library_and_a_kernel_its_reference(variant):
    assert bool(variant.library) != variant.has_kernel
    assert (variant.folder / "reference.py").exists() == variant.has_kernel
    assert len(list(variant.folder.glob("*.cu.cc"))) == int(variant.has_kernel)
    if variant.has_kernel:
        assert (variant.folder / f"{variant.folder.name}.cu.cc").exists()
