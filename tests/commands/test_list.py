"""`elmanctl list`."""

import json

import pytest

from elmanctl.commands.list import receipt_text
from elmanctl.plugins.registry import registry
from elmanctl.verify import hashes, receipt
from elmanctl.verify.record import Receipt

RULES = "from elmanctl.rules import Multiple, Rules\n"
MORE = (
    'aliases={"ZZ1h4": "ZZ1h4n16"}, presets={"ZZ1g": {"use_gate": True}}, requires=("no_such_thing",), install="pip install thing", '
    'library="thing", rules=Rules(sizes={"n_state": Multiple(8, "one row"), "dim": Multiple(128, "alignment", method=True)}, '
    'combinations=(("the gate needs room", lambda config, dim: None),))'
)


@pytest.fixture
def rich_variant(project):
    """Write a variant that has everything, and one that is broken."""
    init = project.fake("zz1", "ZZ1", MORE) / "__init__.py"
    init.write_text(RULES + init.read_text())
    project.write("variants/bad/__init__.py", "raise ValueError('half written')\n")
    return init.parent


def test_table(project, rich_variant):
    ran = project.run("list")
    assert ran.code == 0
    row = next(line for line in ran.out.splitlines() if line.startswith("ZZ1"))
    for text in ("baseline", "local", "library", "a fake of the tests", "needs no_such_thing: pip install thing"):
        assert text in row
    broken = next(line for line in ran.out.splitlines() if line.startswith("bad"))
    assert "broken" in broken and "ValueError: half written" in broken


def test_broken_rows_are_red(project, rich_variant, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    out = project.start("list").out
    broken = next(line for line in out.splitlines() if "half written" in line)
    assert "\x1b[31mbad" in broken


def test_json(project, rich_variant):
    found = json.loads(project.run("list", "--json").out)
    (row,) = [v for v in found["variants"] if v["name"] == "ZZ1"]
    assert row == {
        "name": "ZZ1",
        "canonical": "ZZ1h8n32",
        "summary": "a fake of the tests",
        "kind": "baseline",
        "source": "local",
        "where": str(rich_variant),
        "hides": "",
        "receipts": [],
        "missing": ["no_such_thing"],
        "install": "pip install thing",
    }
    (problem,) = [p for p in found["problems"] if p["plugin"] == "bad"]
    assert "half written" in problem["text"] and problem["where"].endswith("variants/bad")


def test_what_hides_what(project):
    kinds = {v["name"]: v for v in json.loads(project.run("list", "--json").out)["variants"]}
    installed = next(v for v in kinds.values() if v["source"] == "installed")
    project.fake(installed["where"].rsplit("/", 1)[1], installed["name"])
    assert f"local, hides {installed['where']}" in " ".join(project.run("list").out.split())


def test_receipts_of_every_target_are_shown_until_the_sources_change(project):
    project.run("new", "ZZ9")
    registry.cache_clear()
    spec = registry().resolve("ZZ9")

    def line() -> str:
        return next(x for x in project.run("list").out.splitlines() if x.startswith("ZZ9"))

    assert "none" in line()
    for target, worst, quick in (("host", 0.75, False), ("sm_90a", 0.4, True)):
        facts = {
            "variant": "ZZ9",
            "model": spec.name,
            "target": target,
            "source_hash": hashes.source_hash(spec.variant),
        }
        facts |= {
            "dtypes": ("float32",),
            "cases": 1,
            "worst": worst,
            "worst_tensor": "y",
            "seconds": 1.0,
            "created": "2026-01-01",
        }
        receipt.write(spec, Receipt(**facts, quick=quick, parts=hashes.parts(spec, target)))
    assert "host green 0.8x, sm_90a green quick 0.4x" in line() and "kernel" in line()
    row = json.loads(project.run("list", "ZZ9", "--json").out)["receipts"][0]
    assert (row["target"], row["state"], row["worst"], row["dtypes"]) == ("host", "green", 0.75, ["float32"])
    receipt.write(spec, Receipt(**facts, failed=("float32 T2",), parts=hashes.parts(spec, "sm_90a")))
    assert "host green 0.8x, sm_90a red" in line()
    source = project.path / "variants/zz9/zz9.cu.cc"
    source.write_text(source.read_text() + "// changed\n")
    assert "host stale, sm_90a stale" in line()
    assert json.loads(project.run("list", "ZZ9:linear=true", "--json").out)["receipts"] == []


def test_one_variant_in_full(project, rich_variant):
    ran = project.run("list", "zz1h4:use_gate=true")
    assert ran.code == 0
    text = " ".join(ran.out.split())
    for part in (
        "ZZ1: a fake of the tests",
        "ZZ1h4n16:use_gate=true (grammar ZZ1[h<n_heads>][n<n_state>])",
        "n_heads h 8 4 heads",
        "use_gate false true gate the output",
        "ZZ1g use_gate=true",
        "ZZ1h4 ZZ1h4n16",
        "n_state a multiple of 8 hard one row",
        "dim a multiple of 128 method alignment",
        "combination hard the gate needs room",
        "no_such_thing, absent here: pip install thing",
    ):
        assert part in text, part


def test_one_variant_as_json(project, rich_variant):
    one = json.loads(project.run("list", "ZZ1n64", "--json").out)
    assert one["canonical"] == "ZZ1h8n64"
    assert [(o["name"], o["tag"], o["default"], o["value"]) for o in one["options"]] == [
        ("n_heads", "h", 8, 8),
        ("n_state", "n", 32, 64),
        ("use_gate", None, False, False),
    ]
    assert {r["of"]: r["strength"] for r in one["rules"]} == {"n_state": "hard", "dim": "method", "combination": "hard"}


@pytest.mark.parametrize(("name", "message"), [("ZZ2", "Unknown variant ZZ2. Close: ZZ1"), ("bad", "half written")])
def test_an_unknown_name_exits_2(project, rich_variant, name, message):
    ran = project.run("list", name)
    assert ran.code == 2 and ran.out == "" and message in ran.err


def test_a_name_that_breaks_a_rule_exits_2(project, rich_variant):
    ran = project.run("list", "ZZ1h8n20")
    assert ran.code == 2 and "n_state=20 is not a multiple of 8" in ran.err and ran.out == ""


def test_every_variant_here_can_be_shown(project):
    for row in json.loads(project.run("list", "--json").out)["variants"]:
        assert project.run("list", row["name"]).out.startswith(f"{row['name']}: ")


def test_a_receipt_of_the_same_kernel_is_shown_with_the_model_that_it_is_of(project):
    """What `bench` accepts is what `list` shows: E88_500M has 64 heads, and a kernel does not see how many there are."""
    given = json.loads(project.run("list", "E88", "--json").out)["preset_receipts"]["E88_500M"]
    found = {r["target"]: (r["state"], r["model"]) for r in given}
    known = {t: receipt.find(registry().resolve("E88_500M"), t) for t in ("host", "sm_90a")}
    assert found == {t: ("green", one.model) for t, one in known.items()}
    assert all(r["why"] == ("" if r["model"] == "E88h64n32" else f"the same kernel as {r['model']}") for r in given)
    line = receipt_text({"kind": "kernel", "receipts": [{**given[0], "worst": 0.5, "why": "the same kernel as X"}]})
    assert line == "host green 0.5x (the same kernel as X)"


def test_every_published_name_has_a_row_of_its_own(project, rich_variant):
    rows = {r["name"]: r for r in json.loads(project.run("list", "--names", "--json").out)}
    assert rows["ZZ1g"]["canonical"].endswith("use_gate=true") and rows["ZZ1h4"]["canonical"] == "ZZ1h4n16"
    assert rows["E63b"]["receipts"] and {"E63", "E63c", "E37v2", "E88_full_fla"} <= set(rows)
    ran = project.run("list", "E63", "--names")
    lines = {line.split()[0]: line for line in ran.out.splitlines()[1:]}
    assert list(lines) == ["E63", "E63b", "E63c", "E63d", "E63a"]
    assert "E63:form=c" in lines["E63c"] and "host green" in lines["E63c"]


def test_a_preset_shows_what_vouches_for_its_model(project):
    whole, one = (json.loads(project.run("list", name, "--json").out) for name in ("E73", "E73cp"))
    assert whole["preset_receipts"]["E73cp"] == one["receipts"] != []
    assert set(whole["preset_receipts"]) == set(whole["presets"])
    (line,) = [text for text in project.run("list", "E73").out.splitlines() if text.startswith("E73cp")]
    assert all(f"{r['target']} {r['state']}" in line for r in one["receipts"])
